//! The exchange of preambles, before anything else.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::preamble::{Preamble, PreambleError};

/// Why the two sides did not come to terms.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The byte stream failed or ended.
    #[error("the connection ended before the preamble")]
    Io(#[from] io::Error),
    /// The preamble was not accepted.
    #[error(transparent)]
    Preamble(#[from] PreambleError),
}

/// The host's part: hears the agent, answers with the version that is used, and returns it. The
/// caller bounds the time: an agent that has not booted says nothing.
pub async fn host_handshake<T: AsyncRead + AsyncWrite + Unpin>(
    io: &mut T,
) -> Result<u16, HandshakeError> {
    let version = read(io).await?.negotiate()?;
    io.write_all(&Preamble::chosen(version).encode()).await?;
    io.flush().await?;
    Ok(version)
}

/// The agent's part: says which versions it speaks, and returns the one that the host chose.
pub async fn agent_handshake<T: AsyncRead + AsyncWrite + Unpin>(
    io: &mut T,
) -> Result<u16, HandshakeError> {
    io.write_all(&Preamble::OURS.encode()).await?;
    io.flush().await?;
    Ok(read(io).await?.negotiate()?)
}

async fn read<T: AsyncRead + Unpin>(io: &mut T) -> Result<Preamble, HandshakeError> {
    let mut bytes = [0; Preamble::LEN];
    io.read_exact(&mut bytes).await?;
    Ok(Preamble::decode(bytes)?)
}
