//! What a program declares of a sandbox.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::{Error, Mount, NetworkPolicy, Patch, Secret};
use crate::image::Login;
use crate::manifest;
use crate::spec::{
    ByteSize, GuestPath, HostPort, Image, ImageSource, LogLevel, Millis, Name, Origins,
    PortMapping, Project, PullPolicy, SandboxSpec, SecretSpec, Signal, User, check_scripts,
};

/// A sandbox as a program declares it. What is wrong with a field is told when it is created.
///
/// Unlike a sandbox of a Sandboxfile it runs nothing of its own unless [`SandboxConfig::cmd`] or
/// [`SandboxConfig::entrypoint`] says so: it idles, and commands are executed in it.
///
/// ```
/// use msb::client::{Mount, Patch, SandboxConfig};
///
/// let config = SandboxConfig::new("worker", "docker.io/library/python:3.12")
///     .cpus(2)
///     .memory_mib(1024)
///     .env("MODE", "batch")
///     .volume("/scratch", Mount::tmpfs().size_mib(100))
///     .patch(Patch::text("/etc/greeting", "Hello!\n"))
///     .replace(true);
/// ```
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    pub(super) name: String,
    pub(super) replace: bool,
    pub(super) login: Option<Login>,
    spec: SandboxSpec,
    secrets: BTreeMap<Name, SecretSpec>,
    wrong: Option<(&'static str, String)>,
}

impl SandboxConfig {
    /// A sandbox of `image` with every other field at its default. An image that starts with `/`,
    /// `./` or `../` is a directory or an OCI layout of the host; any other is a reference.
    pub fn new(name: impl Into<String>, image: impl Into<String>) -> Self {
        let image = image.into();
        let is_path = ["/", "./", "../"].iter().any(|start| image.starts_with(start));
        let (source, wrong) = match is_path {
            false if image.is_empty() => {
                (ImageSource::Oci(image), Some(("image", "it is empty".to_owned())))
            }
            false => (ImageSource::Oci(image), None),
            true => match absolute(&image) {
                Ok(path) => (ImageSource::Dir(path), None),
                Err(reason) => (ImageSource::Dir(image), Some(("image", reason))),
            },
        };
        let spec = SandboxSpec::new(Image { source, platform: None });
        // No workload but one that is asked for.
        let spec = SandboxSpec { entrypoint: Some(Vec::new()), ..spec };
        let secrets = BTreeMap::new();
        Self { name: name.into(), replace: false, login: None, spec, secrets, wrong }
    }

    fn check<T, E: ToString>(&mut self, field: &'static str, value: Result<T, E>) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong.get_or_insert((field, error.to_string()));
                None
            }
        }
    }

    /// Memory of the guest, in MiB; default 512.
    #[must_use]
    pub fn memory_mib(mut self, mib: u64) -> Self {
        self.spec.memory = ByteSize::from_mib(mib);
        let enough = self.spec.memory >= SandboxSpec::MIN_MEMORY;
        let _ = self.check("memory_mib", if enough { Ok(()) } else { Err("a guest needs 64 MiB") });
        self
    }

    /// Virtual processors, 1 to 255; default 1.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.spec.cpus = cpus;
        let valid = (1..=SandboxSpec::MAX_CPUS).contains(&cpus);
        let _ = self.check("cpus", if valid { Ok(()) } else { Err("use 1 to 255") });
        self
    }

    /// Size of its writable disk, in MiB, which takes what is written to it; default 8192.
    #[must_use]
    pub fn disk_mib(mut self, mib: u64) -> Self {
        self.spec.disk = ByteSize::from_mib(mib);
        let enough = self.spec.disk >= SandboxSpec::MIN_DISK;
        let _ = self.check("disk_mib", if enough { Ok(()) } else { Err("a disk needs 16 MiB") });
        self
    }

    /// Working directory of its commands, absolute; default the image's.
    #[must_use]
    pub fn workdir(mut self, path: &str) -> Self {
        self.spec.workdir = self.check("workdir", GuestPath::new(path));
        self
    }

    /// Shell of [`super::Sandbox::shell`] and of scripts without one; default `/bin/sh`.
    #[must_use]
    pub fn shell(mut self, path: &str) -> Self {
        self.spec.shell = self.check("shell", GuestPath::new(path));
        self
    }

    /// Runs this as its workload, before the words of [`SandboxConfig::cmd`].
    #[must_use]
    pub fn entrypoint(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.spec.entrypoint = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Runs this as its workload, after the words of the entrypoint: its own, else the image's.
    #[must_use]
    pub fn cmd(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.spec.cmd = Some(words.into_iter().map(Into::into).collect());
        self.spec.entrypoint = self.spec.entrypoint.filter(|words| !words.is_empty());
        self
    }

    /// Host name in the guest; default its name.
    #[must_use]
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.spec.hostname = Some(name.into());
        self
    }

    /// User of its commands: `user[:group]`, names or numbers; default the image's.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.spec.user = Some(User(user.into()));
        self
    }

    /// Sets a variable of its commands, over the image's.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.env.insert(name.into(), value.into());
        self
    }

    /// A named script, for [`super::Sandbox::run`]: an executable file on `PATH` of every command.
    /// One without a `#!` line is for [`SandboxConfig::shell`].
    #[must_use]
    pub fn script(mut self, name: impl Into<String>, content: impl Into<String>) -> Self {
        self.spec.scripts.insert(name.into(), content.into());
        self
    }

    /// Mounts something at an absolute path of the guest.
    #[must_use]
    pub fn volume(mut self, path: &str, mount: Mount) -> Self {
        let (readonly, source) = mount.into_spec();
        let source = self.check("volumes", source);
        if let (Some(path), Some(source)) = (self.check("volumes", GuestPath::new(path)), source) {
            self.spec.volumes.insert(path, crate::spec::Mount { source, readonly });
        }
        self
    }

    /// Changes its file system before its first start; patches are applied in order.
    #[must_use]
    pub fn patch(mut self, patch: Patch) -> Self {
        if let Some(patch) = self.check("patches", patch.into_spec()) {
            self.spec.patches.push(patch);
        }
        self
    }

    /// When the registry is asked for the image; default when it is not here.
    #[must_use]
    pub fn pull_policy(mut self, policy: PullPolicy) -> Self {
        self.spec.pull_policy = policy;
        self
    }

    /// Verbosity of its supervisor's log; default `info`.
    #[must_use]
    pub fn log_level(mut self, level: LogLevel) -> Self {
        self.spec.log_level = level;
        self
    }

    /// Whether one of that name may exist: it is stopped and removed then, with its disk.
    #[must_use]
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.labels.insert(name.into(), value.into());
        self
    }

    /// Stops its workload; default the image's, else SIGTERM.
    #[must_use]
    pub fn stop_signal(mut self, signal: Signal) -> Self {
        self.spec.stop_signal = Some(signal);
        self
    }

    /// The longest it may run, in seconds.
    #[must_use]
    pub fn max_duration_secs(mut self, secs: u64) -> Self {
        self.spec.max_duration = self.check("max_duration_secs", time_limit(secs));
        self
    }

    /// The longest it may run without being used, in seconds: with no command in it, detached ones
    /// included, no request on its files and no `msb attach`. Then it is stopped.
    #[must_use]
    pub fn idle_timeout_secs(mut self, secs: u64) -> Self {
        self.spec.idle_timeout = self.check("idle_timeout_secs", time_limit(secs));
        self
    }

    /// What it may reach; without one it has no network.
    #[must_use]
    pub fn network(mut self, policy: NetworkPolicy) -> Self {
        self.spec.network = policy.0;
        self
    }

    /// Publishes a TCP port of the guest on 127.0.0.1 of this machine; 0 is a free one.
    #[must_use]
    pub fn port(mut self, host: u16, guest: u16) -> Self {
        let valid = if guest == 0 { Err("a guest has no port 0") } else { Ok(()) };
        let _ = self.check("ports", valid);
        let host = if host == 0 { HostPort::Auto } else { HostPort::Fixed(host) };
        self.spec.ports.push(PortMapping { host, guest, bind: Ipv4Addr::LOCALHOST.into() });
        self
    }

    /// Lets its commands use a secret without seeing it.
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        if let Some((name, secret)) = self.check("secrets", secret.into_spec()) {
            let taken = self
                .secrets
                .values()
                .any(|other| other.env == secret.env || other.placeholder == secret.placeholder);
            let unique = if taken { Err("two have one variable or placeholder") } else { Ok(()) };
            let _ = self.check("secrets", unique);
            self.spec.secrets.push(name.clone());
            self.secrets.insert(name, secret);
        }
        self
    }

    /// User name and password for the registry of its image, over the logins of this machine. They
    /// are for getting the image now, and are stored nowhere.
    #[must_use]
    pub fn registry_auth(
        mut self,
        username: impl Into<String>,
        password: impl Into<String>,
    ) -> Self {
        self.login = Some(Login::new(username, password));
        self
    }

    /// The checked name and spec.
    pub(super) fn finish(self) -> Result<(Name, SandboxSpec), Error> {
        let sandbox = self.name.clone();
        if let Some((field, reason)) = self.wrong {
            return Err(Error::Invalid { sandbox, field, reason });
        }
        if let Err(error) = check_scripts(&self.spec.scripts, &self.spec.shell_path()) {
            let reason = error.to_string();
            return Err(Error::Invalid { sandbox, field: "scripts", reason });
        }
        let name = Name::new(self.name).map_err(|error| Error::Invalid {
            sandbox,
            field: "name",
            reason: error.to_string(),
        })?;
        let project = Project {
            name: name.clone(),
            root: String::new(),
            sandboxes: [(name.clone(), self.spec.clone())].into(),
            volumes: BTreeMap::new(),
            secrets: self.secrets,
            registries: BTreeMap::new(),
        };
        let names = [name.clone()];
        let found = manifest::unsupported(&project, names.iter(), &Origins::default());
        match found.first() {
            Some(diagnostic) => Err(Error::Unsupported(diagnostic.message().to_owned())),
            None => Ok((name, self.spec)),
        }
    }
}

/// A path of the host, from the working directory on.
pub(super) fn absolute(path: &str) -> Result<String, String> {
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    path.into_os_string().into_string().map_err(|_| "it is not UTF-8".to_owned())
}
fn time_limit(secs: u64) -> Result<Millis, &'static str> {
    if secs == 0 { Err("use a second or more") } else { Ok(Millis::from_secs(secs)) }
}
