//! Disks that grow while a guest has them.

use std::time::Duration;

use msb_protocol::mux::Opener;
use msb_protocol::{GrowReply, GrowRequest, Request, read_frame, write_message};
use tokio::time::timeout;

use super::control::DeniedReason;
use super::link::short;

/// How long the guest may take to let its file systems grow. A terabyte takes it some seconds.
pub const GROWTH_PATIENCE: Duration = Duration::from_secs(60);

/// Tells the guest that the disks which are `shares` have become longer; returns when it says that
/// their file systems have.
pub(super) async fn tell(opener: &Opener, shares: &[u32]) -> Result<(), DeniedReason> {
    let all = async {
        for share in shares {
            match ask(opener, *share).await.ok_or(DeniedReason::NoAnswer)? {
                GrowReply::Grown => {}
                GrowReply::Failed(why) => return Err(DeniedReason::Failed(short(&why))),
            }
        }
        Ok(())
    };
    timeout(GROWTH_PATIENCE, all).await.unwrap_or(Err(DeniedReason::NoAnswer))
}

async fn ask(opener: &Opener, share: u32) -> Option<GrowReply> {
    let mut stream = opener.open().await.ok()?;
    write_message(&mut stream, &Request::Grow(GrowRequest { share })).await.ok()?;
    let mut buffer = Vec::new();
    read_frame(&mut stream, &mut buffer).await.ok()??.message().ok()
}

#[cfg(test)]
mod tests {
    use msb_protocol::mux;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Tells a guest that answers each request with `reply`, or does not answer at all.
    async fn told(reply: Option<GrowReply>) -> Result<(), DeniedReason> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (opener, driver) = mux::client(ours);
        let (mut acceptor, guest) = mux::server(theirs);
        let answering = async {
            while let Some(mut stream) = acceptor.accept().await {
                match &reply {
                    Some(reply) => write_message(&mut stream, reply).await.unwrap(),
                    None => drop(stream.read(&mut [0]).await),
                }
                std::mem::forget(stream);
            }
            std::future::pending().await
        };
        tokio::select! {
            told = tell(&opener, &[0, 1]) => told,
            _ = driver => panic!("the host's side ended"),
            _ = guest => panic!("the guest's side ended"),
            () = answering => Ok(()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_says_yes_or_why_not_or_is_given_up() {
        assert_eq!(told(Some(GrowReply::Grown)).await, Ok(()));
        let long = format!("\u{1b}{}", "x".repeat(64 << 10));
        match told(Some(GrowReply::Failed(long))).await {
            Err(DeniedReason::Failed(why)) => {
                assert!(why.len() <= 1024 && why.starts_with('x'), "{why}");
            }
            other => panic!("{other:?}"),
        }
        let begun = tokio::time::Instant::now();
        assert_eq!(told(None).await, Err(DeniedReason::NoAnswer));
        assert_eq!(begun.elapsed().as_secs(), GROWTH_PATIENCE.as_secs());
    }
}
