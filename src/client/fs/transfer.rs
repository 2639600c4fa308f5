//! Files and trees between this machine and a sandbox. The transfer itself blocks, in a thread of
//! its own.
#![allow(clippy::disallowed_methods, reason = "an effect module")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use msb_protocol::{Frame, FsPut, FsReply, FsRequest};
use msb_transfer::{Event, Input, Output, Policy, Target, TransferError};
use tokio::net::UnixStream;

use super::{FsError, SandboxFs, wire};

/// The longest text of a sandbox that is passed on with an event, in characters.
const MAX_TEXT: usize = 1024;

/// How something is copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// A symbolic link as the source stands for what it leads to. Links below it are always copied
    /// as links.
    pub follow: bool,
    /// Into a sandbox: keep owners, and setuid, setgid and sticky bits. To this machine: keep owners
    /// where this process is root; the bits never come out of a sandbox.
    pub archive: bool,
}

/// What happens during a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyEvent {
    /// A file, directory or link is complete.
    Entry,
    /// That many bytes were moved.
    Bytes(u64),
    /// Something is not copied as it is.
    Skipped {
        /// Its path below the source; untrusted where it is a sandbox's.
        path: String,
        /// Why; as untrusted.
        why: String,
    },
}

impl SandboxFs {
    /// Copies a file or a tree of this machine into the sandbox.
    ///
    /// The path follows the rules of `cp`: a directory that exists takes the source in under its
    /// name; a source that ends in `/.` stands for what is in it; anything else is the new name, in
    /// a directory that must exist. Modes, times, links and holes are kept; all belongs to root.
    /// What is complete appears at once, what is not leaves nothing behind.
    pub async fn copy_from_host(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<(), FsError> {
        self.copy_from_host_with(from, to, CopyOptions::default(), |_| {}).await
    }

    /// As [`SandboxFs::copy_from_host`]; `watch` is called from another thread.
    pub async fn copy_from_host_with(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
        options: CopyOptions,
        mut watch: impl FnMut(CopyEvent) + Send + 'static,
    ) -> Result<(), FsError> {
        let from = from.as_ref().to_owned();
        // Nothing has to be asked of the sandbox where there is nothing to send.
        let found = if options.follow { from.metadata() } else { from.symlink_metadata() };
        found.map_err(|source| FsError::Host { path: from.clone(), source })?;
        let request = FsRequest::Put(FsPut {
            path: wire(to),
            name: name(&from).as_bytes().into(),
            contents: is_contents(&from),
            archive: options.archive,
        });
        let stream = self.client.fs(request).await?;
        blocking(stream, move |socket| {
            let mut output = Output::new(socket);
            let mut watch = |event: Event<'_>| watch(event.into());
            let sent = msb_transfer::send(&from, options.follow, &mut output, &mut watch);
            answered(socket, sent)
        })
        .await
    }

    /// Copies a file or a tree of the sandbox to this machine, by the same rules. Whatever the
    /// sandbox sends, nothing is made outside of `to`, no link of the sandbox is followed, no setuid
    /// bit comes along; files belong to who runs this.
    pub async fn copy_to_host(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<(), FsError> {
        self.copy_to_host_with(from, to, CopyOptions::default(), |_| {}).await
    }

    /// As [`SandboxFs::copy_to_host`]; `watch` is called from another thread.
    pub async fn copy_to_host_with(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
        options: CopyOptions,
        mut watch: impl FnMut(CopyEvent) + Send + 'static,
    ) -> Result<(), FsError> {
        let (from, to): (PathBuf, PathBuf) = (from.as_ref().into(), to.as_ref().into());
        let request = FsRequest::Get { path: wire(&from), follow: options.follow };
        let stream = self.client.fs(request).await?;
        blocking(stream, move |socket| {
            let name = name(&from);
            let target = Target { path: &to, name: &name, contents: is_contents(&from) };
            let owners = options.archive && rustix::process::geteuid().is_root();
            let policy = Policy { owners, special_bits: false };
            let mut watch = |event: Event<'_>| watch(event.into());
            msb_transfer::receive(&mut Input::new(socket), target, policy, &mut watch)
        })
        .await
    }
}

/// Runs a transfer in a thread where it may block. Dropping the future ends the stream, and with it
/// the transfer.
pub(super) async fn blocking(
    stream: UnixStream,
    transfer: impl FnOnce(&StdUnixStream) -> Result<(), TransferError> + Send + 'static,
) -> Result<(), FsError> {
    let ours = |source| FsError::Frame(msb_protocol::FrameError::Io(source));
    let socket = stream.into_std().map_err(ours)?;
    socket.set_nonblocking(false).map_err(ours)?;
    let _hang_up = HangUp(socket.try_clone().map_err(ours)?);
    let done = tokio::task::spawn_blocking(move || transfer(&socket)).await;
    done.map_err(|_| FsError::Gone)?.map_err(FsError::from)
}

struct HangUp(StdUnixStream);

impl Drop for HangUp {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

/// What the sandbox says of what was `sent`. Where sending failed here it has been told, and has
/// removed what it had when it answers; where it does not listen any more, it says why.
pub(super) fn answered(
    socket: &StdUnixStream,
    sent: Result<(), TransferError>,
) -> Result<(), TransferError> {
    let answer = answer(&mut Input::new(socket));
    match sent {
        Ok(()) | Err(TransferError::Write(_)) => answer,
        Err(error) => Err(error),
    }
}

fn answer(input: &mut Input<&StdUnixStream>) -> Result<(), TransferError> {
    match input.frame()? {
        frame @ Frame::Message(_) => match frame.message()? {
            FsReply::Done => Ok(()),
            FsReply::Failed(failure) => Err(TransferError::Peer(failure)),
            _ => Err(TransferError::Protocol("an unexpected reply")),
        },
        Frame::Data { .. } => Err(TransferError::Protocol("an unexpected frame")),
    }
}

/// What the source is called; nothing for `/` and `.`.
pub(super) fn name(source: &Path) -> std::ffi::OsString {
    source.file_name().unwrap_or_default().to_owned()
}

/// Whether a source stands for what is in it.
pub(super) fn is_contents(source: &Path) -> bool {
    let source = source.as_os_str();
    source == OsStr::new(".") || source.as_bytes().ends_with(b"/.")
}

impl From<Event<'_>> for CopyEvent {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Entry => Self::Entry,
            Event::Bytes(count) => Self::Bytes(count),
            Event::Skipped { path, why } => Self::Skipped {
                path: String::from_utf8_lossy(path).chars().take(MAX_TEXT).collect(),
                why: why.chars().take(MAX_TEXT).collect(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_have_names_and_may_stand_for_their_contents() {
        for (source, called, contents) in [
            ("a/b", "b", false),
            ("a/b/", "b", false),
            ("a/b/.", "b", true),
            ("/", "", false),
            (".", "", true),
            ("./.", "", true),
            ("..", "", false),
            ("a/.b", ".b", false),
        ] {
            let source = Path::new(source);
            assert_eq!((name(source).to_str(), is_contents(source)), (Some(called), contents));
        }
    }
}
