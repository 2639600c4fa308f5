//! Volumes on this machine.

use clap::{Args, Subcommand, ValueEnum};

use crate::spec::{ByteSize, Name, VolumeKind};

use super::Formatted;

#[derive(Debug, Subcommand)]
pub(crate) enum Volumes {
    /// Make a volume that belongs to no project; a Sandboxfile uses it with `external = true`
    Create(VolumeCreate),
    /// List volumes; with `--project` those of a project
    Ls(Formatted),
    /// Show all that is known of volumes, as JSON
    Inspect(VolumeNames),
    /// Remove volumes that no sandbox mounts, with all that they hold
    Rm(VolumeNames),
    /// Remove every volume that no sandbox mounts and that is not protected
    Prune(VolumePrune),
    /// Make a disk volume larger
    Resize(VolumeResize),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// An ext4 disk of its own, with any owner and mode and one writer at a time
    #[default]
    Disk,
    /// A directory of this machine, which several sandboxes may share
    Dir,
}

impl From<Kind> for VolumeKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Disk => Self::Disk,
            Kind::Dir => Self::Dir,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct VolumeCreate {
    /// Its name
    #[arg(value_name = "NAME")]
    pub(crate) name: Name,
    /// How it is kept
    #[arg(long, value_enum, default_value_t)]
    pub(crate) kind: Kind,
    /// The size of a disk, a hard limit, such as `20GiB`; default 10GiB. It takes room as it fills
    #[arg(long, visible_alias = "quota", value_name = "SIZE")]
    pub(crate) size: Option<ByteSize>,
    /// Add a label; repeat for more
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeNames {
    /// Which volumes: `NAME`, or `PROJECT/NAME` for one of a project, whose name alone is enough
    /// with `--project`
    #[arg(value_name = "VOLUME", required = true)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VolumePrune {
    /// Print what would be removed and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Answer yes to every question
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeResize {
    /// Which volume: `NAME`, or `PROJECT/NAME` for one of a project
    #[arg(value_name = "VOLUME")]
    pub(crate) name: String,
    /// Its new size, such as `20GiB`
    #[arg(value_name = "SIZE")]
    pub(crate) size: ByteSize,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as `key=value`".to_owned()),
    }
}
