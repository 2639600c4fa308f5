//! The image configuration: what the image says about how it is run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::platform::{Platform, canonical_architecture};

/// What of an image's configuration a sandbox uses. Everything in it comes from the image and is
/// bounded, free of NUL bytes, and not otherwise to be trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Start of the command line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Rest of the command line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// `user[:group]`, each a name or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Signal that stops the workload, as written in the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Paths that the image declares as volumes, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Ports that it declares, sorted, as `8080/tcp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
}

/// A configuration blob as far as it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfigFile {
    pub(super) config: ImageConfig,
    /// Digests of the unpacked layers, lowest first.
    pub(super) diff_ids: Vec<Digest>,
    /// What it was made for, where it says so.
    pub(super) platform: Option<Platform>,
}

#[derive(Deserialize)]
struct RawFile {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    variant: Option<String>,
    config: Option<RawConfig>,
    rootfs: RawRootfs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, Option<String>>>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// Reads a configuration blob, whose size the caller has bounded. The error is a sentence.
pub(super) fn parse(bytes: &[u8]) -> Result<ConfigFile, String> {
    let raw: RawFile = serde_json::from_slice(bytes)
        .map_err(|error| format!("not an image configuration: {error}"))?;
    let diff_ids = raw
        .rootfs
        .diff_ids
        .iter()
        .map(|text| text.parse().map_err(|error| format!("a diff id is wrong: {error}")))
        .collect::<Result<_, _>>()?;
    let platform = (!raw.os.is_empty() && !raw.architecture.is_empty()).then(|| Platform {
        os: raw.os.to_ascii_lowercase(),
        architecture: canonical_architecture(&raw.architecture.to_ascii_lowercase()).to_owned(),
        variant: raw.variant.filter(|variant| !variant.is_empty()),
    });
    let config = lower(raw.config.unwrap_or_default())?;
    Ok(ConfigFile { config, diff_ids, platform })
}

fn lower(raw: RawConfig) -> Result<ImageConfig, String> {
    let set = |text: Option<String>| text.filter(|text| !text.is_empty());
    let config = ImageConfig {
        entrypoint: raw.entrypoint.unwrap_or_default(),
        cmd: raw.cmd.unwrap_or_default(),
        env: raw
            .env
            .unwrap_or_default()
            .into_iter()
            .filter_map(|entry| {
                let (name, value) = entry.split_once('=')?;
                (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
            })
            .collect(),
        workdir: set(raw.working_dir),
        user: set(raw.user),
        stop_signal: set(raw.stop_signal),
        labels: raw
            .labels
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, value.unwrap_or_default()))
            .collect(),
        volumes: raw.volumes.unwrap_or_default().into_keys().collect(),
        exposed_ports: raw.exposed_ports.unwrap_or_default().into_keys().collect(),
    };
    // These become arguments of exec and mount, where a NUL byte would cut them short.
    let has_nul = config
        .entrypoint
        .iter()
        .chain(&config.cmd)
        .chain(config.env.iter().flat_map(|(name, value)| [name, value]))
        .chain(&config.workdir)
        .chain(&config.user)
        .chain(&config.volumes)
        .any(|text| text.contains('\0'));
    if has_nul {
        return Err("a text in the image configuration holds a NUL byte".to_owned());
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn what_images_say() {
        let digest = Digest::of(b"x");
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","created":"whenever","history":[{{"x":1}}],
            "config":{{"Env":["PATH=/bin:/sbin","A=b=c","broken","=x"],"Entrypoint":null,"Cmd":["sh"],
            "WorkingDir":"","User":"1000:1000","StopSignal":"SIGQUIT","Labels":{{"a":null,"b":"c"}},
            "ExposedPorts":{{"80/tcp":{{}}}},"Volumes":{{"/data":{{}}}},"Healthcheck":{{"Test":["NONE"]}}}},
            "rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
        );
        let file = parse(text.as_bytes()).unwrap();
        assert_eq!(file.diff_ids, [digest]);
        expect![[r#"{"cmd":["sh"],"env":{"A":"b=c","PATH":"/bin:/sbin"},"user":"1000:1000","stop_signal":"SIGQUIT","labels":{"a":"","b":"c"},"volumes":["/data"],"exposed_ports":["80/tcp"]}"#]]
            .assert_eq(&serde_json::to_string(&file.config).unwrap());
    }

    #[test]
    fn hostile() {
        assert!(parse(b"{}").is_err());
        assert!(parse(br#"{"rootfs":{"diff_ids":["sha256:zz"]}}"#).is_err());
        assert!(parse(br#"{"config":{"Cmd":["a\u0000b"]},"rootfs":{"diff_ids":[]}}"#).is_err());
        assert!(parse(br#"{"config":null,"rootfs":{}}"#).is_ok());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
