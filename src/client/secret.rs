//! Secrets, as a program writes them.

use std::path::Path;

use super::config::absolute;
use crate::spec::{Name, SecretFrom, SecretSpec, ViolationAction};

/// A secret that commands use without seeing it: their variable holds a placeholder, in whose place
/// the value goes out, to the hosts that are allowed and over verified TLS.
///
/// It says where the value comes from; the value is read when the sandbox starts, and stored
/// nowhere. Sandboxes have no network in this version, so that [`super::Sandbox::create`] refuses
/// a secret as `msb up` does.
///
/// ```
/// use msb::client::{SandboxConfig, Secret};
///
/// let key = Secret::env("OPENAI_API_KEY").allow_host("api.openai.com");
/// let config = SandboxConfig::new("agent", "docker.io/library/python:3.12").secret(key);
/// ```
#[derive(Clone, Debug)]
pub struct Secret(Result<SecretSpec, String>);

impl Secret {
    /// Of this variable in the guest. The value is that of the variable of this name in this
    /// program's environment, unless another source is said.
    pub fn env(variable: impl Into<String>) -> Self {
        let env = variable.into();
        let valid = env.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && env.starts_with(|c: char| !c.is_ascii_digit());
        if !valid {
            return Self(Err(format!("`{env}` is no name of a variable")));
        }
        Self(Ok(SecretSpec {
            from: SecretFrom::Env(env.clone()),
            allow_hosts: Vec::new(),
            allow_host_patterns: Vec::new(),
            placeholder: format!("$MSB_{env}"),
            require_tls: true,
            on_violation: ViolationAction::default(),
            env,
        }))
    }

    fn with(mut self, change: impl FnOnce(&mut SecretSpec)) -> Self {
        if let Ok(spec) = &mut self.0 {
            change(spec);
        }
        self
    }

    /// The value is that of this variable of this program's environment.
    #[must_use]
    pub fn from_env(self, variable: impl Into<String>) -> Self {
        self.with(|spec| spec.from = SecretFrom::Env(variable.into()))
    }

    /// The value is what this file of the host holds, without its last line break.
    #[must_use]
    pub fn from_file(mut self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_str().ok_or_else(|| "it is not UTF-8".to_owned());
        match path.and_then(absolute) {
            Ok(path) => self.with(|spec| spec.from = SecretFrom::File(path)),
            Err(reason) => {
                self.0 = self.0.and(Err(reason));
                self
            }
        }
    }

    /// The value is what this command of the host writes, without its last line break.
    #[must_use]
    pub fn from_command(self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let words = words.into_iter().map(Into::into).collect();
        self.with(|spec| spec.from = SecretFrom::Command(words))
    }

    /// The value may go to this host. There must be one, or a pattern.
    #[must_use]
    pub fn allow_host(self, host: &str) -> Self {
        self.with(|spec| spec.allow_hosts.push(host.to_ascii_lowercase()))
    }

    /// The value may go to hosts like `*.example.com`.
    #[must_use]
    pub fn allow_host_pattern(self, pattern: &str) -> Self {
        self.with(|spec| spec.allow_host_patterns.push(pattern.to_ascii_lowercase()))
    }

    /// What the guest sees; default `$MSB_` and the variable.
    #[must_use]
    pub fn placeholder(self, text: impl Into<String>) -> Self {
        self.with(|spec| spec.placeholder = text.into())
    }

    /// Whether the value may go only over TLS whose server is verified; default true.
    #[must_use]
    pub fn require_tls(self, require: bool) -> Self {
        self.with(|spec| spec.require_tls = require)
    }

    /// What happens when the placeholder goes elsewhere; default: that is refused and noted.
    #[must_use]
    pub fn on_violation(self, action: ViolationAction) -> Self {
        self.with(|spec| spec.on_violation = action)
    }

    /// With the name that it has among the secrets of its sandbox.
    pub(super) fn into_spec(self) -> Result<(Name, SecretSpec), String> {
        let spec = self.0?;
        if spec.allow_hosts.is_empty() && spec.allow_host_patterns.is_empty() {
            return Err(format!("`{}` may go to no host: allow one", spec.env));
        }
        let name = spec.env.to_ascii_lowercase();
        let name = Name::new(name.trim_matches('_')).map_err(|error| error.to_string())?;
        Ok((name, spec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_says_where_its_value_is_and_where_it_may_go() {
        let secret = Secret::env("API_KEY")
            .from_file("/run/key")
            .allow_host("API.example.com")
            .allow_host_pattern("*.example.org")
            .on_violation(ViolationAction::Block);
        let (name, spec) = secret.into_spec().unwrap();
        assert_eq!(name.as_str(), "api_key");
        assert_eq!(spec.from, SecretFrom::File("/run/key".into()));
        assert_eq!(spec.allow_hosts, ["api.example.com"]);
        assert_eq!(spec.allow_host_patterns, ["*.example.org"]);
        assert_eq!((spec.placeholder.as_str(), spec.require_tls), ("$MSB_API_KEY", true));
        assert_eq!(spec.on_violation, ViolationAction::Block);
        let (_, spec) = Secret::env("A").allow_host("a.b").into_spec().unwrap();
        assert_eq!(spec.from, SecretFrom::Env("A".into()));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let wrong = |secret: Secret| secret.into_spec().unwrap_err();
        assert_eq!(wrong(Secret::env("A")), "`A` may go to no host: allow one");
        assert_eq!(wrong(Secret::env("1A").allow_host("h")), "`1A` is no name of a variable");
        assert_eq!(wrong(Secret::env("").allow_host("h")), "`` is no name of a variable");
        assert!(wrong(Secret::env("A").from_file("").allow_host("h")).contains("empty"));
    }
}
