//! Who the user is to a registry.
//!
//! Looked for in this order; the first that has an entry wins:
//! 1. `username` and `password` of the `[registry."host"]` section,
//! 2. the Docker credential configuration (`$DOCKER_CONFIG/config.json`, else
//!    `~/.docker/config.json`): `credHelpers` for the host, then `credsStore`, then `auths`,
//! 3. nobody.
//!
//! Values are read when a registry asks for them, kept for the one pull, and never written.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use base64::Engine as _;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::{Reason, printable};
use super::limits::{COMMAND_OUTPUT_BYTES, COMMAND_TIMEOUT, DOCKER_CONFIG_BYTES};
use super::reference::ImageRef;
use crate::spec::{RegistrySpec, SecretFrom};

type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// How registries are reached: the project's `[registry]` sections and the user's own logins.
#[derive(Clone)]
pub struct RegistryAccess {
    registries: BTreeMap<String, RegistrySpec>,
    docker_config: Option<PathBuf>,
    login: Option<Login>,
    env: Environment,
}

/// A user name and a password for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    username: String,
    password: Hidden,
}

impl Login {
    /// Of this user. The password is never shown.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: Hidden(password.into()) }
    }
}

/// Why credentials could not be read. Never holds a credential.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The variable that should hold the password.
    #[error("the environment variable {0} is not set")]
    Unset(String),
    /// `username` without `password`.
    #[error("`username` is set and `password` is not")]
    NoPassword,
    /// A file.
    #[error("{path} cannot be read")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The Docker configuration is no valid JSON, or an entry makes no sense.
    #[error("{path}: {problem}")]
    DockerConfig {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A command could not be started.
    #[error("`{program}` cannot be started")]
    Spawn {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A command failed.
    #[error("`{program}` failed: {problem}")]
    Command {
        /// Which.
        program: String,
        /// How.
        problem: String,
    },
}

/// A secret text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Hidden(pub(super) String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What is shown to a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credential {
    Anonymous,
    Basic {
        username: String,
        password: Hidden,
        origin: &'static str,
    },
    /// A refresh token, exchanged for an access token at the token endpoint.
    Identity {
        token: Hidden,
        origin: &'static str,
    },
}

impl Credential {
    /// Where it came from, for messages.
    pub(super) fn origin(&self) -> &'static str {
        match self {
            Self::Anonymous => "no credentials",
            Self::Basic { origin, .. } | Self::Identity { origin, .. } => origin,
        }
    }
}

const FROM_SANDBOXFILE: &str = "the credentials of the Sandboxfile";
const FROM_PROGRAM: &str = "the credentials of the program";
const FROM_DOCKER: &str = "the credentials of the Docker configuration";
const FROM_HELPER: &str = "the credentials of the Docker credential helper";
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

impl fmt::Debug for RegistryAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAccess")
            .field("registries", &self.registries)
            .field("docker_config", &self.docker_config)
            .finish_non_exhaustive()
    }
}

impl RegistryAccess {
    /// Access with the sections of a project and the logins that the environment, as told by
    /// `env`, leads to. Nothing is read before a registry is asked.
    pub fn new(
        registries: &BTreeMap<String, RegistrySpec>,
        env: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let set = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let docker_config = set("DOCKER_CONFIG")
            .or_else(|| set("HOME").map(|home| home.join(".docker")))
            .map(|dir| dir.join("config.json"));
        Self { registries: registries.clone(), docker_config, login: None, env: Arc::new(env) }
    }

    /// Access without any section or login.
    pub fn anonymous() -> Self {
        Self {
            registries: BTreeMap::new(),
            docker_config: None,
            login: None,
            env: Arc::new(|_| None),
        }
    }

    /// This login for whatever registry is asked, over all others.
    #[must_use]
    pub fn with_login(mut self, login: Option<Login>) -> Self {
        self.login = login;
        self
    }

    fn section(&self, reference: &ImageRef) -> Option<&RegistrySpec> {
        self.registries.iter().find(|(host, _)| reference.is_of(host)).map(|(_, spec)| spec)
    }

    /// Whether plain HTTP is spoken; refused for registries that are not on loopback.
    pub(super) fn is_insecure(&self, reference: &ImageRef) -> Result<bool, Reason> {
        let insecure = self.section(reference).is_some_and(|spec| spec.insecure);
        if insecure && !is_loopback(host_of(reference.registry())) {
            return Err(Reason::InsecureNotLoopback { registry: reference.registry().to_owned() });
        }
        Ok(insecure)
    }

    /// The credential for the registry of `reference`.
    pub(super) async fn credential(&self, reference: &ImageRef) -> Result<Credential, AuthError> {
        if let Some(Login { username, password }) = self.login.clone() {
            return Ok(Credential::Basic { username, password, origin: FROM_PROGRAM });
        }
        if let Some(section) = self.section(reference)
            && (section.username.is_some() || section.password.is_some())
        {
            let from = section.password.as_ref().ok_or(AuthError::NoPassword)?;
            let password = Hidden(self.secret(from).await?);
            let username = section.username.clone().unwrap_or_default();
            return Ok(Credential::Basic { username, password, origin: FROM_SANDBOXFILE });
        }
        match &self.docker_config {
            Some(path) => from_docker(path, reference.registry()).await,
            None => Ok(Credential::Anonymous),
        }
    }

    async fn secret(&self, from: &SecretFrom) -> Result<String, AuthError> {
        let text = match from {
            SecretFrom::Env(name) => {
                (self.env)(name).ok_or_else(|| AuthError::Unset(name.clone()))?
            }
            SecretFrom::File(path) => {
                let path = Path::new(path);
                let bytes = read_bounded(path, COMMAND_OUTPUT_BYTES).await;
                let text = bytes.and_then(|bytes| {
                    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
                });
                text.map_err(|source| AuthError::File { path: path.to_owned(), source })?
            }
            SecretFrom::Command(argv) => {
                let (program, args) = argv.split_first().ok_or(AuthError::NoPassword)?;
                run(program, args, "").await?
            }
        };
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
    }
}

/// The host of `host[:port]`, without the brackets of an IPv6 address.
pub(super) fn host_of(registry: &str) -> &str {
    match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => registry.split_once(':').map_or(registry, |(host, _)| host),
    }
}

/// Whether a host can only be this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: BTreeMap<String, DockerAuth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

async fn from_docker(path: &Path, registry: &str) -> Result<Credential, AuthError> {
    let bytes = match read_bounded(path, DOCKER_CONFIG_BYTES).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Credential::Anonymous),
        Err(source) => return Err(AuthError::File { path: path.to_owned(), source }),
    };
    let wrong = |problem: String| AuthError::DockerConfig { path: path.to_owned(), problem };
    let config: DockerConfig =
        serde_json::from_slice(&bytes).map_err(|error| wrong(error_position(&error)))?;
    let of_registry = |key: &str| docker_key_host(key) == registry;
    let helper = config
        .cred_helpers
        .iter()
        .find(|(key, _)| of_registry(key))
        .map(|(_, helper)| helper)
        .or(config.creds_store.as_ref())
        .filter(|helper| !helper.is_empty());
    if let Some(helper) = helper {
        let server = if registry == "docker.io" { DOCKER_HUB_KEY } else { registry };
        if let Some(credential) = from_helper(helper, server).await? {
            return Ok(credential);
        }
    }
    match config.auths.iter().find(|(key, _)| of_registry(key)) {
        Some((_, entry)) => {
            from_entry(entry).map_err(|problem| wrong(format!("auths for {registry}: {problem}")))
        }
        None => Ok(Credential::Anonymous),
    }
}

/// Where JSON is wrong, without the excerpt that serde puts into some messages: it may be secret.
fn error_position(error: &serde_json::Error) -> String {
    format!("not the expected JSON at line {}, column {}", error.line(), error.column())
}

/// `https://index.docker.io/v1/` and the like name the same registry as `docker.io`.
fn docker_key_host(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = rest.split_once('/').map_or(rest, |(host, _)| host);
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

fn from_entry(entry: &DockerAuth) -> Result<Credential, &'static str> {
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(token) = set(&entry.identitytoken) {
        return Ok(Credential::Identity { token: Hidden(token), origin: FROM_DOCKER });
    }
    let (username, password) = if let Some(encoded) = set(&entry.auth) {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(encoded.trim())
            .map_err(|_| "`auth` is not base64")?;
        let text = String::from_utf8(bytes).map_err(|_| "`auth` is not text")?;
        // Docker pads with NUL bytes where its own encoder was used.
        let (username, password) = text.split_once(':').ok_or("`auth` is not user:password")?;
        (username.to_owned(), password.trim_end_matches('\0').to_owned())
    } else if let (Some(username), Some(password)) = (set(&entry.username), set(&entry.password)) {
        (username, password)
    } else {
        // `docker login` with a credential store leaves an empty entry behind.
        return Ok(Credential::Anonymous);
    };
    Ok(Credential::Basic { username, password: Hidden(password), origin: FROM_DOCKER })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// What helpers say, by convention, when they know nothing of a server.
const HELPER_UNKNOWN: &str = "credentials not found in native keychain";
/// User name that marks the secret as an identity token.
const HELPER_TOKEN_USER: &str = "<token>";

async fn from_helper(helper: &str, server: &str) -> Result<Option<Credential>, AuthError> {
    let program = format!("docker-credential-{helper}");
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if !helper.bytes().all(plain) {
        let problem = "its name is not that of a credential helper".to_owned();
        return Err(AuthError::Command { program: printable(&program), problem });
    }
    let text = match run(&program, &["get".to_owned()], server).await {
        Ok(text) => text,
        Err(AuthError::Command { problem, .. }) if problem.contains(HELPER_UNKNOWN) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let answer: HelperAnswer = serde_json::from_str(&text)
        .map_err(|error| AuthError::Command { program, problem: error_position(&error) })?;
    let secret = Hidden(answer.secret);
    Ok(Some(if answer.username == HELPER_TOKEN_USER {
        Credential::Identity { token: secret, origin: FROM_HELPER }
    } else {
        Credential::Basic { username: answer.username, password: secret, origin: FROM_HELPER }
    }))
}

/// Runs a command to its end: its standard output. Bounded in time and output; killed when the
/// caller gives up. Failures quote what it printed (helpers explain themselves on either stream).
async fn run(program: &str, args: &[String], input: &str) -> Result<String, AuthError> {
    let failed = |problem: String| AuthError::Command { program: program.to_owned(), problem };
    let io_failed = |error: io::Error| failed(error.to_string());
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| AuthError::Spawn { program: program.to_owned(), source })?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Err(failed("its streams are missing".to_owned()));
    };
    let work = async {
        // A command that does not read its input breaks the pipe: not an error.
        let feed = async {
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut stdout = stdout.take(COMMAND_OUTPUT_BYTES + 1);
        let mut stderr = stderr.take(COMMAND_OUTPUT_BYTES + 1);
        let ((), read_out, read_err) =
            tokio::join!(feed, stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
        read_out.and(read_err).map_err(io_failed)?;
        let too_much = |bytes: &[u8]| bytes.len() as u64 > COMMAND_OUTPUT_BYTES;
        if too_much(&out) || too_much(&err) {
            return Err(failed(format!("it printed more than {COMMAND_OUTPUT_BYTES} bytes")));
        }
        Ok((child.wait().await.map_err(io_failed)?, out, err))
    };
    let (status, out, err) = tokio::time::timeout(COMMAND_TIMEOUT, work)
        .await
        .map_err(|_| failed(format!("no end within {} s", COMMAND_TIMEOUT.as_secs())))??;
    let out = String::from_utf8(out).map_err(|_| failed("its output is not UTF-8".to_owned()))?;
    if !status.success() {
        let err = String::from_utf8_lossy(&err);
        let said = if err.trim().is_empty() { &*out } else { &*err };
        return Err(failed(format!("{status}: {}", printable(said))));
    }
    Ok(out)
}

/// Reads a whole file of at most `limit` bytes.
async fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tokio::fs::File::open(path).await?.take(limit + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn of(text: &str) -> ImageRef {
        text.parse().unwrap()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn basic(username: &str, password: &str, origin: &'static str) -> Credential {
        Credential::Basic { username: username.into(), password: Hidden(password.into()), origin }
    }

    fn access(
        registries: &[(&str, RegistrySpec)],
        docker: &Path,
        vars: &'static [(&'static str, &'static str)],
    ) -> RegistryAccess {
        let registries = registries.iter().map(|(h, s)| ((*h).to_owned(), s.clone())).collect();
        let docker = docker.to_str().unwrap().to_owned();
        RegistryAccess::new(&registries, move |name| {
            if name == "DOCKER_CONFIG" {
                return Some(docker.clone());
            }
            vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn the_login_of_a_program_comes_before_all_others() {
        let dir = tempfile::tempdir().unwrap();
        let section = RegistrySpec { username: Some("u".into()), ..RegistrySpec::default() };
        let access = access(&[("r.example", section)], dir.path(), &[]);
        let access = access.with_login(Some(Login::new("me", "pw")));
        let wanted = basic("me", "pw", FROM_PROGRAM);
        assert_eq!(block_on(access.credential(&of("r.example/a"))).unwrap(), wanted);
        assert!(!format!("{:?}", Login::new("me", "hunter2")).contains("hunter2"));
    }

    #[test]
    fn the_section_comes_first_and_every_source_of_a_password_works() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), r#"{"auths":{"r.example":{"auth":"YTpi"}}}"#)
            .unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "from file\r\n").unwrap();
        let echo = vec!["sh".to_owned(), "-c".to_owned(), "echo from command".to_owned()];
        for (from, want) in [
            (SecretFrom::Env("PW".into()), "from env"),
            (SecretFrom::File(file.to_str().unwrap().into()), "from file"),
            (SecretFrom::Command(echo), "from command"),
        ] {
            let spec =
                RegistrySpec { username: Some("ci".into()), password: Some(from), insecure: false };
            let access = access(&[("r.example", spec)], dir.path(), &[("PW", "from env")]);
            let got = block_on(access.credential(&of("r.example/a"))).unwrap();
            assert_eq!(got, basic("ci", want, FROM_SANDBOXFILE));
            assert!(!format!("{got:?}").contains(want), "a secret is shown");
        }
        let access = access(&[], dir.path(), &[]);
        let got = block_on(access.credential(&of("r.example/a"))).unwrap();
        assert_eq!(got, basic("a", "b", FROM_DOCKER));
        assert_eq!(block_on(access.credential(&of("other/a"))).unwrap(), Credential::Anonymous);
    }

    #[test]
    fn docker_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.json");
        let get = |text: &str, reference: &str| {
            fs::write(&config, text).unwrap();
            block_on(access(&[], dir.path(), &[]).credential(&of(reference)))
        };
        let hub = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpwOnE="}}}"#;
        assert_eq!(get(hub, "busybox").unwrap(), basic("u", "p:q", FROM_DOCKER));
        let token = r#"{"auths":{"r.example":{"identitytoken":"t"}}}"#;
        let want = Credential::Identity { token: Hidden("t".into()), origin: FROM_DOCKER };
        assert_eq!(get(token, "r.example/a").unwrap(), want);
        assert_eq!(
            get(r#"{"auths":{"r.example":{}}}"#, "r.example/a").unwrap(),
            Credential::Anonymous
        );
        let error = get(r#"{"auths":{"r.example":{"auth":"%%"}}}"#, "r.example/a").unwrap_err();
        assert!(
            error.to_string().ends_with("auths for r.example: `auth` is not base64"),
            "{error}"
        );
        let error = get(r#"{"auths": "hunter2"}"#, "r.example/a").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let error = get(r#"{"credsStore":"../x"}"#, "r.example/a").unwrap_err();
        assert!(matches!(error, AuthError::Command { .. }), "{error}");
    }

    #[test]
    fn helpers() {
        // The name is looked up on PATH, so the script is run by its path here.
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("helper");
        let run_script = |body: &str| {
            fs::write(&script, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            // Run through the shell: another test's fork may still hold the file open for writing.
            let args = [script.to_str().unwrap().to_owned(), "get".to_owned()];
            block_on(run("sh", &args, "r.example"))
        };
        assert_eq!(run_script("read -r s; echo \"$1 $s\"").unwrap(), "get r.example\n");
        let error = run_script("echo 'credentials not found in native keychain'; exit 1");
        assert!(error.unwrap_err().to_string().contains(HELPER_UNKNOWN));
        let error = run_script("head -c 100000 /dev/zero").unwrap_err().to_string();
        assert!(error.contains("more than"), "{error}");
    }

    #[test]
    fn insecure_is_for_loopback() {
        let spec = RegistrySpec { insecure: true, ..RegistrySpec::default() };
        for (host, good) in [
            ("127.0.0.1:5000", true),
            ("127.9.0.1", true),
            ("localhost:80", true),
            ("[::1]:5000", true),
            ("r.example", false),
            ("10.0.0.1:5000", false),
            ("localhost.r.example", false),
        ] {
            let access =
                RegistryAccess::new(&BTreeMap::from([(host.to_owned(), spec.clone())]), |_| None);
            let got = access.is_insecure(&of(&format!("{host}/a")));
            assert_eq!(got.is_ok_and(|insecure| insecure), good, "{host}");
            assert!(matches!(access.is_insecure(&of("else.example/a")), Ok(false)));
        }
    }
}
