//! What is run in a sandbox: the image's word and the Sandboxfile's, put together.

use std::collections::BTreeMap;

use msb_protocol::{BootConfig, ExecRequest, HttpProbe, ProbeRequest};

use super::health::Probing;
use super::mounts::Mounts;
use super::scripts;
use super::state::{Hook, HookSet};
use super::{ImageDefaults, LaunchConfig};
use crate::spec::{HealthCheck, InvalidProbe, Probe, ProbeTarget, SandboxSpec, Signal};

/// The program and arguments of a workload: entrypoint, then command. The Sandboxfile's entrypoint
/// replaces the image's and drops the image's command; its command replaces the image's. Empty: the
/// sandbox has no workload.
pub fn workload_argv(spec: &SandboxSpec, image: &ImageDefaults) -> Vec<String> {
    let entrypoint = spec.entrypoint.as_ref().unwrap_or(&image.entrypoint);
    let cmd = match (&spec.cmd, &spec.entrypoint) {
        (Some(cmd), _) => cmd.as_slice(),
        (None, Some(_)) => &[],
        (None, None) => image.cmd.as_slice(),
    };
    entrypoint.iter().chain(cmd).cloned().collect()
}

/// The workload's exec session; `None` where the sandbox only idles.
pub(super) fn workload(spec: &SandboxSpec, image: &ImageDefaults) -> Option<ExecRequest> {
    let argv = workload_argv(spec, image);
    if argv.is_empty() {
        return None;
    }
    let request = ExecRequest { argv, create_cwd: true, ..ExecRequest::default() };
    Some(complete(spec, image, request))
}

/// Fills in what `request` leaves open, and merges its environment over the sandbox's.
pub(super) fn complete(
    spec: &SandboxSpec,
    image: &ImageDefaults,
    request: ExecRequest,
) -> ExecRequest {
    let mut env: BTreeMap<String, String> = image.env.clone();
    env.extend(spec.env.clone());
    env.extend(request.env);
    let workdir =
        || spec.workdir.as_ref().map(ToString::to_string).or_else(|| image.workdir.clone());
    let user = || spec.user.as_ref().map(|user| user.0.clone()).or_else(|| image.user.clone());
    let filled = |text: &String| !text.is_empty();
    ExecRequest {
        env,
        cwd: request.cwd.or_else(workdir).filter(filled),
        user: request.user.or_else(user).filter(filled),
        ..request
    }
}

/// What a probe asks of the agent.
pub(super) fn probe(spec: &SandboxSpec, image: &ImageDefaults, check: &HealthCheck) -> Probing {
    let argv = match &check.probe {
        Probe::Exec(argv) => argv.clone(),
        Probe::Shell(script) => vec![spec.shell_path(), "-c".into(), script.clone()],
        Probe::Http(url) => return connection(ProbeTarget::http(url), check),
        Probe::Tcp(address) => return connection(ProbeTarget::tcp(address), check),
    };
    Probing::Command(complete(spec, image, ExecRequest { argv, ..ExecRequest::default() }))
}

/// A target that was checked when it was read; without one the probe fails.
fn connection(target: Result<ProbeTarget, InvalidProbe>, check: &HealthCheck) -> Probing {
    let (addresses, http) = target.map_or_else(|_| (Vec::new(), None), |t| (t.addresses, t.http));
    Probing::Connection(ProbeRequest {
        addresses: addresses.iter().map(ToString::to_string).collect(),
        http: http.map(|get| HttpProbe { host: get.host, path: get.path }),
        timeout_ms: check.timeout.ms(),
    })
}

/// The hooks of `hook`, in order.
pub(super) fn hooks(spec: &SandboxSpec, image: &ImageDefaults, hook: Hook) -> Vec<ExecRequest> {
    let commands = match hook {
        Hook::PostStart => &spec.hooks.post_start,
        Hook::PreStop => &spec.hooks.pre_stop,
    };
    let request = |argv: &Vec<String>| {
        let request = ExecRequest { argv: argv.clone(), ..ExecRequest::default() };
        complete(spec, image, request)
    };
    commands.iter().map(request).collect()
}

/// Which hooks there are.
pub(super) fn hook_set(spec: &SandboxSpec) -> HookSet {
    HookSet {
        post_start: !spec.hooks.post_start.is_empty(),
        pre_stop: !spec.hooks.pre_stop.is_empty(),
    }
}

/// What stops the workload.
pub(super) fn stop_signal(spec: &SandboxSpec, image: &ImageDefaults) -> Signal {
    let image = || image.stop_signal.as_deref().and_then(|text| text.parse().ok());
    spec.stop_signal.or_else(image).unwrap_or(Signal::TERM)
}

/// How the guest is set up; the clock is set when this is sent.
pub(super) fn boot_config(config: &LaunchConfig) -> BootConfig {
    let user = config.spec.user.as_ref().map(|user| user.0.clone());
    BootConfig {
        user: user.or_else(|| config.image.user.clone()).filter(|user| !user.is_empty()),
        hostname: config.spec.hostname.clone().unwrap_or_else(|| config.name.hostname()),
        scripts: scripts::files(&config.spec),
        ..Mounts::of(config).guest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Image, ImageSource};

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn spec(entrypoint: Option<&str>, cmd: Option<&str>) -> SandboxSpec {
        let image = Image { source: ImageSource::Oci("x".into()), platform: None };
        SandboxSpec {
            entrypoint: entrypoint.map(words),
            cmd: cmd.map(words),
            ..SandboxSpec::new(image)
        }
    }

    #[test]
    fn the_command_line_is_entrypoint_then_command() {
        let image =
            ImageDefaults { entrypoint: words("e"), cmd: words("c d"), ..ImageDefaults::default() };
        let argv = |entrypoint, cmd| workload_argv(&spec(entrypoint, cmd), &image).join(" ");
        assert_eq!(argv(None, None), "e c d");
        assert_eq!(argv(Some("E"), None), "E");
        assert_eq!(argv(None, Some("C")), "e C");
        assert_eq!(argv(Some("E"), Some("C")), "E C");
        assert_eq!(argv(Some(""), None), "");
        assert_eq!(workload(&spec(None, None), &ImageDefaults::default()), None);
    }

    #[test]
    fn later_words_win() {
        let pairs = |text: &str| -> BTreeMap<String, String> {
            let pair = |word: &str| word.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned()));
            text.split(' ').filter_map(pair).collect()
        };
        let image = ImageDefaults {
            env: pairs("A=image B=image C=image"),
            user: Some("image".into()),
            workdir: Some(String::new()),
            ..ImageDefaults::default()
        };
        let mut spec = spec(None, None);
        spec.env = pairs("B=spec C=spec");
        let request = ExecRequest { env: pairs("C=exec"), ..ExecRequest::default() };
        let complete = complete(&spec, &image, request);
        assert_eq!(complete.env, pairs("A=image B=spec C=exec"));
        assert_eq!(complete.user.as_deref(), Some("image"));
        assert_eq!(complete.cwd, None);
    }
}
