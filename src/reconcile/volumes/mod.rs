//! Volumes: a directory with a record of the row, and what the volume holds.
//!
//! ```text
//! volumes/ID/volume.json     the row, as last written: a lost database is made again from it
//!            data.ext4       a disk volume
//!            data/           a directory volume
//!
//! create   journal(id) → tmp/ID → rename to volumes/ID → row       (one commit)
//! remove   journal(id) → row goes (one commit) → volumes/ID goes
//! grow     the file becomes longer → guests are told → record → row; each again does no harm
//! ```

mod commands;
mod files;
mod growth;

pub use commands::{
    NewVolume, VolumeError, VolumeInfo, VolumeUser, create_volume, list_volumes, prunable_volumes,
    remove_volume, volume_path,
};
pub(super) use commands::{check_unused, update, write_row};
pub use files::FileError;
pub(super) use files::{read_record, remove};
pub(super) use growth::lengthen;
pub use growth::{VolumeGrowth, grow_volume, growth_notice};
