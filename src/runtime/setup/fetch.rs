//! Downloads the pinned library with pip, checks it, and installs it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use super::{SetupError, Status, at, hex, kernel_from, status, watch};
use crate::home::Home;
use crate::runtime::setup::{Library, Origin};

/// What is quoted of pip's complaints, in lines.
const REASON_LINES: usize = 4;
const STAGING: &str = "setup-";
const CHUNK: usize = 256 << 10;

/// What is downloaded, and the digests that it must have.
#[derive(Clone, Debug)]
pub struct Pin {
    /// The package and its version, as pip takes it.
    pub package: String,
    /// SHA-256 of the wheel, in hex.
    pub wheel_sha256: String,
    /// Size of the wheel, in bytes.
    pub wheel_bytes: u64,
    /// The library's path in the wheel.
    pub member: String,
    /// SHA-256 of the library, in hex.
    pub library_sha256: String,
    /// Size of the library, in bytes.
    pub library_bytes: u64,
    /// The platform tag that pip is asked for.
    pub platform: String,
}

/// How far an installation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The wheel is being downloaded.
    Downloading {
        /// What has arrived.
        bytes: u64,
        /// What will have arrived at the end.
        total: u64,
    },
    /// The wheel is checked and unpacked.
    Unpacking,
    /// The kernel is made from the library.
    Kernel,
}

/// Installs a pinned library.
#[derive(Clone, Debug)]
pub struct Installer {
    /// What.
    pub pin: Pin,
    /// Commands that may be pip, in order of preference.
    pub pip: Vec<Vec<OsString>>,
}

impl Pin {
    /// The pin of this version.
    pub fn current() -> Result<Self, SetupError> {
        if std::env::consts::ARCH != "x86_64" {
            return Err(SetupError::Architecture(std::env::consts::ARCH));
        }
        Ok(Self {
            package: "microsandbox==0.7.11".to_owned(),
            wheel_sha256: "65f1e4bbf8d721c9f7f557329fb6c8cf41f554c1c6942eac8b941198fa283fe0"
                .to_owned(),
            wheel_bytes: 48_148_484,
            member: "microsandbox/_bundled/lib/libkrunfw.so.5.6.1".to_owned(),
            library_sha256: "3854efcd3fe625528fa00207d97586d9790db8c436bb6881a43986604336d18e"
                .to_owned(),
            library_bytes: 21_628_880,
            platform: "manylinux_2_28_x86_64".to_owned(),
        })
    }

    fn library_name(&self) -> &str {
        self.member.rsplit('/').next().unwrap_or(&self.member)
    }
}

/// Provides the kernel: nothing to do when a library is found, else the pinned one is installed.
/// Blocks. May be repeated after any interruption.
pub fn install(home: &Home, progress: &mut dyn FnMut(Progress)) -> Result<Status, SetupError> {
    match status(home) {
        Ok(Status { kernel: Some(kernel), library }) => {
            return Ok(Status { kernel: Some(kernel), library });
        }
        Ok(Status { library, kernel: None }) => {
            progress(Progress::Kernel);
            let kernel = Some(kernel_from(home, &library.path)?);
            return Ok(Status { library, kernel });
        }
        Err(SetupError::Missing) => {}
        Err(error) => return Err(error),
    }
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let pip = vec![words(&["python3", "-m", "pip"]), words(&["pip3"]), words(&["pip"])];
    Installer { pin: Pin::current()?, pip }.install(home, progress)
}

impl Installer {
    /// Downloads, checks, unpacks and installs. A library that is installed and intact is kept.
    pub fn install(
        &self,
        home: &Home,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Status, SetupError> {
        let _lock = lock(home)?;
        let path = home.runtime().join(self.pin.library_name());
        if !self.is_intact(&path) {
            sweep(home);
            let staging = tempfile::Builder::new()
                .prefix(STAGING)
                .tempdir_in(home.tmp())
                .map_err(at(&home.tmp(), "writing"))?;
            let wheel = self.download(staging.path(), progress)?;
            progress(Progress::Unpacking);
            self.unpack(&wheel, &staging.path().join("library"), &path)?;
        }
        progress(Progress::Kernel);
        let kernel = kernel_from(home, &path)?;
        let library = Library { path, origin: Origin::Installed };
        Ok(Status { library, kernel: Some(kernel) })
    }

    fn is_intact(&self, path: &Path) -> bool {
        sha256(path).is_ok_and(|digest| digest == self.pin.library_sha256)
    }

    /// The wheel, below `staging`.
    fn download(
        &self,
        staging: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf, SetupError> {
        let pip = self.pip.iter().find(|words| works(words)).ok_or(SetupError::NoPip)?;
        let (program, words) = pip.split_first().ok_or(SetupError::NoPip)?;
        let requirements = staging.join("requirements.txt");
        let errors = staging.join("errors.txt");
        let wheels = staging.join("wheels");
        let unpacking = staging.join("tmp");
        let line = format!("{} --hash=sha256:{}\n", self.pin.package, self.pin.wheel_sha256);
        fs::write(&requirements, line).map_err(at(&requirements, "writing"))?;
        fs::create_dir(&unpacking).map_err(at(&unpacking, "making"))?;
        let stderr = File::create(&errors).map_err(at(&errors, "writing"))?;
        let total = self.pin.wheel_bytes;
        progress(Progress::Downloading { bytes: 0, total });
        let mut child = Command::new(program)
            .args(words)
            .args(["download", "--quiet", "--no-input", "--disable-pip-version-check"])
            .args(["--no-deps", "--only-binary=:all:", "--require-hashes"])
            .args(["--implementation", "cp", "--abi", "abi3", "--python-version", "3.11"])
            .args(["--platform", &self.pin.platform])
            .arg("--dest")
            .arg(&wheels)
            .arg("--requirement")
            .arg(&requirements)
            .env("TMPDIR", &unpacking)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(at(Path::new(program), "starting"))?;
        let ended = watch::wait(&mut child, staging, &mut |bytes| {
            progress(Progress::Downloading { bytes: bytes.min(total), total });
        });
        let status = ended.map_err(at(Path::new(program), "waiting"))?;
        let wheel = fs::read_dir(&wheels)
            .ok()
            .and_then(|mut entries| entries.next())
            .and_then(|entry| entry.ok().map(|entry| entry.path()));
        match wheel.filter(|_| status.success()) {
            Some(wheel) => Ok(wheel),
            None => Err(SetupError::Download {
                package: self.pin.package.clone(),
                reason: last_lines(&errors, status),
            }),
        }
    }

    /// Checks the wheel, unpacks its library to `temporary`, checks that, and installs it.
    fn unpack(&self, wheel: &Path, temporary: &Path, path: &Path) -> Result<(), SetupError> {
        let name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digest = sha256(wheel).map_err(at(wheel, "reading"))?;
        expect(&name, &self.pin.wheel_sha256, digest)?;
        let broken = |reason: String| SetupError::Archive { path: wheel.to_owned(), reason };
        let file = File::open(wheel).map_err(at(wheel, "reading"))?;
        let mut archive = zip::ZipArchive::new(file).map_err(|error| broken(error.to_string()))?;
        let member =
            archive.by_name(&self.pin.member).map_err(|error| broken(error.to_string()))?;
        let mut out = File::create(temporary).map_err(at(temporary, "writing"))?;
        // One byte more than expected tells a file that is too long.
        io::copy(&mut member.take(self.pin.library_bytes + 1), &mut out)
            .map_err(|error| broken(error.to_string()))?;
        out.sync_all().map_err(at(temporary, "writing"))?;
        let digest = sha256(temporary).map_err(at(temporary, "reading"))?;
        expect(self.pin.library_name(), &self.pin.library_sha256, digest)?;
        fs::rename(temporary, path).map_err(at(path, "renaming"))
    }
}

/// Held while a process installs; others wait.
fn lock(home: &Home) -> Result<File, SetupError> {
    let path = home.runtime().join("setup.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(at(&path, "making"))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .map_err(|error| SetupError::Lock(error.into()))?;
    Ok(file)
}

/// Removes what interrupted installations left. The lock is held, so nobody uses it.
fn sweep(home: &Home) {
    for entry in fs::read_dir(home.tmp()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(STAGING) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether the command is a pip that runs.
fn works(words: &[OsString]) -> bool {
    words.split_first().is_some_and(|(program, words)| {
        Command::new(program)
            .args(words)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

fn last_lines(errors: &Path, status: std::process::ExitStatus) -> String {
    let text = fs::read(errors).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(REASON_LINES)..];
    if last.is_empty() { status.to_string() } else { last.join("\n") }
}

fn expect(what: &str, expected: &str, actual: String) -> Result<(), SetupError> {
    if actual == expected {
        return Ok(());
    }
    Err(SetupError::Digest { what: what.to_owned(), expected: expected.to_owned(), actual })
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            length => hasher.update(&buffer[..length]),
        }
    }
}
