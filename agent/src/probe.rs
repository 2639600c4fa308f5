//! Health checks that need no command: connections to what listens in the guest.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use msb_protocol::{HttpProbe, ProbeOutput, ProbeRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The longest status line that is read, in bytes.
const MAX_LINE: usize = 256;

/// Tries each address in turn; what the first one that accepts says, else what the last one did.
pub(crate) async fn probe(request: &ProbeRequest) -> ProbeOutput {
    let limit = Duration::from_millis(request.timeout_ms);
    let tried = timeout(limit, each(request)).await;
    tried.unwrap_or_else(|_| ProbeOutput::Failed("it took too long".to_owned()))
}

async fn each(request: &ProbeRequest) -> ProbeOutput {
    let mut failure = "there is no address to connect to".to_owned();
    for address in &request.addresses {
        let connected = match address.parse::<SocketAddr>() {
            Ok(address) => TcpStream::connect(address).await,
            Err(error) => Err(io::Error::other(error)),
        };
        match (connected, &request.http) {
            (Err(error), _) => failure = format!("{address}: {error}"),
            (Ok(_), None) => return ProbeOutput::Connected,
            (Ok(stream), Some(http)) => {
                return match get(stream, http).await {
                    Ok(status) => ProbeOutput::Status(status),
                    Err(error) => ProbeOutput::Failed(format!("{address}: {error}")),
                };
            }
        }
    }
    ProbeOutput::Failed(failure)
}

/// The status of the answer; the rest of it is not waited for.
async fn get(mut stream: TcpStream, http: &HttpProbe) -> io::Result<u16> {
    let (host, path) = (&http.host, &http.path);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: msb\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut line = Vec::new();
    while line.len() < MAX_LINE && !line.contains(&b'\n') {
        let mut buffer = [0; MAX_LINE];
        match stream.read(&mut buffer).await? {
            0 => break,
            read => line.extend_from_slice(&buffer[..read]),
        }
    }
    status(&line).ok_or_else(|| io::Error::other("the answer is not HTTP"))
}

/// The status in a status line, such as `HTTP/1.1 200 OK`.
fn status(line: &[u8]) -> Option<u16> {
    let line = line.split(|byte| *byte == b'\r' || *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    let status = words.next().filter(|status| status.len() == 3)?;
    status.parse().ok().filter(|status| (100..1000).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_is_read_or_refused() {
        for (line, expected) in [
            ("HTTP/1.1 200 OK\r\nServer: x", Some(200)),
            ("HTTP/1.0 404\n", Some(404)),
            ("HTTP/1.1 503 ", Some(503)),
            ("HTTP/2 200\r\n", None),
            ("HTTP/1.1 20", None),
            ("HTTP/1.1 +20 x", None),
            ("SSH-2.0-OpenSSH_9\r\n", None),
            ("", None),
        ] {
            assert_eq!(status(line.as_bytes()), expected, "{line}");
        }
    }
}
