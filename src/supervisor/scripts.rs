//! Named scripts, on their way into a guest that runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use msb_protocol::mux::Opener;
use msb_protocol::{FsReply, Request, read_frame, write_message};
use tokio::io::AsyncWriteExt;

use super::link::{Fault, short};
use crate::spec::{SandboxSpec, script_file};

/// How long the agent may take to write them.
const PATIENCE: Duration = Duration::from_secs(30);

/// Their files by name.
pub(super) fn files(spec: &SandboxSpec) -> BTreeMap<String, String> {
    let shell = spec.shell_path();
    let file = |(name, text): (&String, &String)| (name.clone(), script_file(text, &shell));
    spec.scripts.iter().map(file).collect()
}

/// Puts `files` in the place of those that the guest has; why not, otherwise. From its begin on
/// nobody knows which the guest has, until it has said so: then they are `there`.
pub(super) async fn replace(
    opener: &Opener,
    files: BTreeMap<String, String>,
    there: &AtomicBool,
) -> Result<(), String> {
    there.store(false, Ordering::Relaxed);
    let reply = tokio::time::timeout(PATIENCE, converse(opener, files)).await;
    match reply {
        Ok(Ok(Some(FsReply::Done))) => {
            there.store(true, Ordering::Relaxed);
            Ok(())
        }
        Ok(Ok(Some(FsReply::Failed(failure)))) => Err(short(&failure.message)),
        Ok(Ok(Some(FsReply::Metadata(_) | FsReply::Entries(_)))) => {
            Err("the agent broke the protocol".to_owned())
        }
        Ok(Ok(None)) => Err("the agent did not answer".to_owned()),
        Ok(Err(Fault::Closed(why) | Fault::Broken(why))) => Err(why),
        Err(_) => Err("the agent took too long".to_owned()),
    }
}

async fn converse(
    opener: &Opener,
    files: BTreeMap<String, String>,
) -> Result<Option<FsReply>, Fault> {
    let mut stream = opener.open().await?;
    write_message(&mut stream, &Request::Scripts(files)).await?;
    stream.flush().await?;
    match read_frame(&mut stream, &mut Vec::new()).await? {
        Some(frame) => Ok(Some(frame.message()?)),
        None => Ok(None),
    }
}
