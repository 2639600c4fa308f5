//! A hermetic place to run the real `msb` binary in; `tests/vm` uses it too.
#![allow(dead_code, reason = "each test binary uses the part that it needs")]

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use msb::home::Home;
use msb::store::{Holder, Lease, SandboxRow, Store};
use msb::supervisor;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sha2::{Digest, Sha256};

/// Two sandboxes that run until they are stopped, one after the other.
#[allow(dead_code, reason = "not every test binary has use for it")]
pub(crate) const PAIR: &str = r#"
name = "pair"

[defaults]
image = "./image"
cmd = ["sleep", "100000"]

[sandbox.a]

[sandbox.b]
depends_on = ["a"]
"#;

/// A state directory and a project directory of their own. Dropping it ends every supervisor that
/// was started in it.
pub(crate) struct Environment {
    dir: tempfile::TempDir,
    /// Variables that every run gets.
    variables: Vec<(&'static str, OsString)>,
}

/// What a run of `msb` gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Environment {
    /// With the `local` driver and a small image at `./image`.
    pub(crate) fn new() -> Self {
        let env = Self::with(vec![("MSB_DRIVER", "local".into())]);
        image_layout(&env.project().join("image"), "one");
        env
    }

    /// With these variables and an empty project directory.
    pub(crate) fn with(variables: Vec<(&'static str, OsString)>) -> Self {
        // Socket addresses are short, so the path is too.
        let dir = tempfile::Builder::new().prefix("msb-").tempdir().unwrap();
        fs::create_dir(dir.path().join("p")).unwrap();
        Self { dir, variables }
    }

    /// The directory that everything is in.
    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// The directory of the project.
    pub(crate) fn project(&self) -> PathBuf {
        self.dir.path().join("p")
    }

    pub(crate) fn home(&self) -> Home {
        Home::at(self.dir.path().join("h"))
    }

    /// Writes a file of the project.
    pub(crate) fn write(&self, path: &str, text: &str) {
        fs::write(self.project().join(path), text).unwrap();
    }

    /// The program, ready to be given arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_msb"));
        self.prepare(&mut command);
        command
    }

    /// Clears the environment of `command` but for what a run needs.
    pub(crate) fn prepare(&self, command: &mut Command) {
        command
            .current_dir(self.project())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("MSB_HOME", self.dir.path().join("h"))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
    }

    /// Runs `msb` with words separated by spaces.
    pub(crate) fn msb(&self, words: &str) -> Ran {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.run(self.command().args(words))
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, command: &mut Command) -> Ran {
        let output = command.output().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: self.redact(&output.stdout),
            stderr: self.redact(&output.stderr),
        }
    }

    /// Runs a command to its end with its standard output going elsewhere.
    pub(crate) fn run_with_stdout(&self, command: &mut Command, stdout: Stdio) -> Ran {
        let child = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::new(),
            stderr: self.redact(&output.stderr),
        }
    }

    /// Text with what differs from run to run taken out.
    fn redact(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        text.replace(self.dir.path().to_str().unwrap(), "$TEST")
    }

    /// The rows of project `p`, with dead supervisors accounted for.
    pub(crate) fn rows(&self) -> Vec<SandboxRow> {
        let Some(store) = Store::open_read_only(&self.home()).unwrap() else { return Vec::new() };
        let mut rows = store.all_sandboxes().unwrap();
        supervisor::interpret(&mut rows, &supervisor::boot_id().unwrap());
        rows
    }

    /// The row of a sandbox.
    pub(crate) fn row(&self, name: &str) -> SandboxRow {
        self.rows().into_iter().find(|row| row.name == name).unwrap()
    }

    /// Sandboxes as `name status`.
    pub(crate) fn statuses(&self) -> Vec<String> {
        self.rows().iter().map(|row| format!("{} {}", row.name, row.status)).collect()
    }

    /// What is left in the state directory of sandboxes that have no row.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let home = self.home();
        let ids: Vec<String> = self.rows().into_iter().map(|row| row.id).collect();
        let mut left = Vec::new();
        for dir in [home.sandboxes(), home.tmp(), home.run()] {
            for entry in fs::read_dir(dir).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let known = ids.iter().any(|id| name.starts_with(id.as_str()));
                if !known && !name.ends_with(".lease") {
                    left.push(name);
                }
            }
        }
        left
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        for row in self.rows() {
            if let Some(run) = &row.run {
                let _ = supervisor::kill(run);
            }
        }
    }
}

impl Ran {
    /// Fails unless the run ended with `code`; shows what it said.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails unless the last message is `line`, the time left out.
    #[track_caller]
    pub(crate) fn ends_with(&self, line: &str) {
        assert_eq!(self.messages().lines().last(), Some(line), "{}", self.stderr);
    }

    /// Standard error without times.
    pub(crate) fn messages(&self) -> String {
        let mut text = String::new();
        for line in self.stderr.lines() {
            let line = match line.rfind(" in ") {
                Some(at) if line.ends_with(" s") => &line[..at],
                _ => line,
            };
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The host process of the VM of a sandbox, as its supervisor tells it.
pub(crate) fn vm_process(env: &Environment, name: &str) -> (Pid, OwnedFd) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = supervisor::ControlClient::new(&env.home(), &env.row(name).id);
    let pid = runtime.block_on(client.status()).unwrap().vm_pid.unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    (pid, pidfd_open(pid, PidfdFlags::empty()).unwrap())
}

/// The supervisor of a sandbox.
pub(crate) fn supervisor_process(env: &Environment, name: &str) -> OwnedFd {
    supervisor::open_process(&env.row(name).run.unwrap()).unwrap().unwrap()
}

/// The lease of a project, taken by "a test".
pub(crate) fn hold_lease(env: &Environment, project: &str) -> Lease {
    let store = Store::open(&env.home()).unwrap();
    Lease::acquire(&store, project, &test_holder(), None, |_| {}).unwrap()
}

/// The lease of one sandbox, taken by "a test".
pub(crate) fn hold_sandbox_lease(env: &Environment, project: &str, sandbox: &str) -> Lease {
    let store = Store::open(&env.home()).unwrap();
    Lease::acquire_sandbox(&store, project, sandbox, &test_holder(), None).unwrap()
}

fn test_holder() -> Holder {
    let me = supervisor::own(String::new()).unwrap();
    Holder {
        pid: me.pid,
        start_time: me.start_time,
        boot_id: me.boot_id,
        command: "a test".into(),
        acquired_ms: 0,
    }
}

/// Waits for the end of a process, far longer than that takes.
#[track_caller]
pub(crate) fn wait_for_end(process: &impl AsFd) {
    let limit = Timespec { tv_sec: 120, tv_nsec: 0 };
    let mut poll = [PollFd::new(process, PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut poll, Some(&limit)).unwrap(), 1, "a process does not end");
}

/// Writes an OCI image layout with one image, tag `latest`, whose only file holds `content`.
pub(crate) fn image_layout(dir: &Path, content: &str) {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "etc/motd", content.as_bytes()).unwrap();
    layer_layout(dir, &archive.into_inner().unwrap());
}

/// Writes an OCI image layout with one image, tag `latest`, of one layer.
pub(crate) fn layer_layout(dir: &Path, layer: &[u8]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(blobs.join(&hex), bytes).unwrap();
        (format!("sha256:{hex}"), bytes.len())
    };
    let (layer_digest, layer_size) = put(layer);
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "FROM_IMAGE=yes"] },
        "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
    });
    let (config_digest, config_size) = put(config.to_string().as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest,
            "size": config_size,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer_digest,
            "size": layer_size,
        }],
    });
    let (digest, size) = put(manifest.to_string().as_bytes());
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": size,
            "annotations": { "org.opencontainers.image.ref.name": "latest" },
        }],
    });
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
