//! Debian's `docker-registry` on a free loopback port, and what goes with it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const MISSING: &str = "the image tests need Debian packages: \
     apt-get install docker-registry skopeo umoci busybox-static erofs-utils";

/// A registry that ends with this value.
pub(crate) struct TestRegistry {
    child: Child,
    pub(crate) host: String,
    dir: tempfile::TempDir,
}

pub(crate) const USER: &str = "ci";
pub(crate) const PASSWORD: &str = "open sesame";
/// What `htpasswd -B` makes of [`PASSWORD`].
const HTPASSWD: &str = "ci:$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n";

impl TestRegistry {
    pub(crate) fn start() -> Self {
        Self::launch(false)
    }

    /// One that asks for [`USER`] and [`PASSWORD`].
    pub(crate) fn start_private() -> Self {
        Self::launch(true)
    }

    fn launch(private: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display();
        let auth = if private {
            fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
            format!("auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}\n")
        } else {
            String::new()
        };
        let config = format!(
            "version: 0.1\nlog: {{level: info, formatter: text, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {root}/data}}}}\n\
             http: {{addr: \"127.0.0.1:0\"}}\n{auth}"
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config).unwrap();
        // It dies with this thread, also when the test does not end well.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect(MISSING);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let host = loop {
            let line = lines.next().expect(MISSING).unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split('"').next().unwrap().to_owned();
            }
        };
        // Its pipe must not fill.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, host, dir }
    }

    /// Pushes `layout:tag` as `name`, all images of an index.
    pub(crate) fn push(&self, layout: &Path, tag: &str, name: &str) {
        let mut skopeo = skopeo();
        skopeo
            .args(["copy", "--all", "--preserve-digests", "--dest-tls-verify=false"])
            .args(["--dest-creds", &format!("{USER}:{PASSWORD}")])
            .arg(format!("oci:{}:{tag}", layout.display()))
            .arg(format!("docker://{}/{name}", self.host));
        run(&mut skopeo);
    }

    /// Ends it; what was pushed can no longer be asked for.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// A directory that lives as long as the registry.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn skopeo() -> Command {
    let mut command = Command::new("skopeo");
    command.arg("--insecure-policy");
    command
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().expect(MISSING);
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Checks a bootable file with the tools of the file system and gives its regular files back.
pub(crate) fn extract(erofs: &Path) -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    run(Command::new("fsck.erofs")
        .arg(format!("--extract={}", root.display()))
        .arg("--no-preserve")
        .arg(erofs));
    let mut files = Vec::new();
    collect(&root, &root, &mut files);
    files.sort_unstable();
    files
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.push((name, fs::read(&path).unwrap()));
        }
    }
}
