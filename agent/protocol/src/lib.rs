//! The agent protocol: wire types and codec shared by the host and the guest agent.
//!
//! One byte stream (a virtio-console port named [`PORT_NAME`]) carries:
//!
//! 1. a fixed preamble in each direction ([`Preamble`]): the agent states the versions it speaks,
//!    the host answers with the one that is used;
//! 2. then yamux, the host being the side that opens streams (the yamux client).
//!
//! The first frame of a stream is a [`Request`] from the host; it says what the stream is for:
//!
//! ```text
//! Control   host → Boot, Shutdown            agent → Ready | BootFailed, Bye
//! Exec      host → stdin data, ExecInput     agent → Started | Failed, stdout/stderr data, Exited
//! Detached  —                                agent → the end of the stream
//! Scripts   —                                agent → FsReply
//! Fs        host → data, a tree              agent → FsReply, data, a tree
//! Grow                                       agent → GrowReply
//! ```
//!
//! A frame is `kind: u8`, `length: u32` little-endian, then `length` bytes. Kind 0 is a CBOR
//! (RFC 8949) message; the other kinds are raw bytes. Whatever arrives is hostile: a longer frame
//! than [`MAX_MESSAGE`] or [`MAX_DATA`] ends the stream.
//!
//! [`host_handshake`] and [`agent_handshake`] do step 1, [`mux`] step 2. Nothing here reads or writes
//! anything but the stream it is given.

mod codec;
mod files;
mod fs;
#[cfg(test)]
mod golden;
mod handshake;
mod messages;
pub mod mux;
mod preamble;
mod root;

pub use codec::{
    DataBuffer, Frame, FrameError, MAX_DATA, MAX_MESSAGE, append_data, append_message, read_frame,
    read_frame_blocking, write_data, write_message,
};
pub use files::{FILES_PREAMBLE_LEN, FilesPreamble};
pub use fs::{
    FsEntry, FsErrorKind, FsFailure, FsKind, FsMetadata, FsPath, FsPut, FsReply, FsRequest,
    FsWrite, MAX_ENTRIES, MAX_TREE_DEPTH, Node, TreeItem,
};
pub use handshake::{HandshakeError, agent_handshake, host_handshake};
pub use messages::{
    BootConfig, BootFailed, ControlInput, ControlOutput, DiskMount, ExecFailure, ExecInput,
    ExecOutput, ExecRequest, ExitStatus, GrowReply, GrowRequest, GuestMetrics, HttpProbe,
    INPUT_WINDOW, ProbeOutput, ProbeRequest, Request, Rlimit, RootConfig, RootDisk, ShareMount,
    StdinMode, TmpfsMount, Tty,
};
pub use preamble::{Preamble, PreambleError, VERSION, VERSION_MIN};
pub use root::FILE_SYSTEMS;

/// The name of the virtio-console port that the agent opens.
pub const PORT_NAME: &str = "agent";
/// The name of the virtio-console port to the host's file server. It carries a [`FilesPreamble`] and
/// then FUSE messages as they are, each of which states its own length.
pub const FILES_PORT_NAME: &str = "files";
/// The most streams open at a time; the agent resets more.
pub const MAX_STREAMS: usize = 256;
/// The exit code of a command that was not found.
pub const EXIT_NOT_FOUND: i32 = 127;
/// The exit code of a command that was found and could not be run.
pub const EXIT_NOT_EXECUTABLE: i32 = 126;
