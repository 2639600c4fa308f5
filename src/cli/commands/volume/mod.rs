//! `msb volume`: the volumes on this machine.

mod ls;
mod prune;
mod rm;

use serde_json::json;

use crate::cli::args::{Global, VolumeCreate, VolumeNames, VolumeResize, Volumes, size};
use crate::cli::error::{CliError, Exit};
use crate::cli::escape::escape;
use crate::cli::ui::Ui;
use crate::cli::{interrupt, project};
use crate::reconcile::{
    NewVolume, VolumeError, VolumeInfo, create_volume, grow_volume, growth_notice, list_volumes,
};
use crate::store::Store;

pub(crate) fn run(ui: &Ui, global: &Global, command: Volumes) -> Result<Exit, CliError> {
    match command {
        Volumes::Create(args) => create(ui, global, args),
        Volumes::Ls(args) => ls::run(ui, global, &args),
        Volumes::Inspect(args) => inspect(ui, global, &args),
        Volumes::Rm(args) => rm::run(ui, global, &args),
        Volumes::Prune(args) => prune::run(ui, global, &args),
        Volumes::Resize(args) => resize(ui, global, &args),
    }
}

fn create(ui: &Ui, global: &Global, args: VolumeCreate) -> Result<Exit, CliError> {
    if let Some(project) = &global.project {
        let message = format!("the volumes of `{project}` are made by `msb up`");
        return Err(CliError::message(Exit::Usage, message)
            .hint("declare it as `[volume.NAME]`, or leave `--project` out"));
    }
    let new = NewVolume {
        name: args.name,
        kind: args.kind.into(),
        quota: args.size,
        labels: args.labels.into_iter().collect(),
    };
    let row = create_volume(&Store::open(&project::home()?)?, &new)?;
    ui.say(&format!("volume {}: created", row.title()));
    Ok(Exit::Ok)
}

fn inspect(ui: &Ui, global: &Global, args: &VolumeNames) -> Result<Exit, CliError> {
    let all = all()?;
    let found: Vec<&VolumeInfo> =
        args.names.iter().map(|name| find(&all, global, name)).collect::<Result<_, _>>()?;
    ui.json(&json!({
        "schema": "msb.volumes/1",
        "volumes": found.into_iter().map(ls::document).collect::<Vec<_>>(),
    }))?;
    Ok(Exit::Ok)
}

fn resize(ui: &Ui, global: &Global, args: &VolumeResize) -> Result<Exit, CliError> {
    let all = all()?;
    let info = find(&all, global, &args.name)?;
    let home = project::home()?;
    let growth = grow_volume(&home, &info.row, args.size);
    let told = interrupt::runtime()?.block_on(growth)?;
    let notice = growth_notice(&told).map(|notice| format!(", {}", escape(&notice)));
    let size = size(args.size.bytes());
    ui.say(&format!("volume {}: {size}{}", info.row.title(), notice.unwrap_or_default()));
    Ok(Exit::Ok)
}

/// All volumes; none where there is no database yet.
fn all() -> Result<Vec<VolumeInfo>, CliError> {
    Ok(match Store::open_read_only(&project::home()?)? {
        Some(store) => list_volumes(&store)?,
        None => Vec::new(),
    })
}

/// The volume that `name` means: as it is listed, or by its name in the project that `-p` names.
fn find<'a>(
    all: &'a [VolumeInfo],
    global: &Global,
    name: &str,
) -> Result<&'a VolumeInfo, CliError> {
    let wanted = match &global.project {
        Some(project) => format!("{project}/{name}"),
        None => name.to_owned(),
    };
    let found = all.iter().find(|info| info.row.title() == wanted || info.row.title() == name);
    found.ok_or_else(|| {
        let error = CliError::from(VolumeError::Unknown(wanted));
        let namesakes = all.iter().map(|info| info.row.title());
        let namesakes = namesakes.filter(|title| title.ends_with(&format!("/{name}")));
        match namesakes.map(|title| format!("`{title}`")).collect::<Vec<_>>() {
            none if none.is_empty() => error,
            some => error.hint(format!("there is {}", some.join(", "))),
        }
    })
}

/// The size of a volume in words.
fn limit(info: &VolumeInfo) -> String {
    info.row.quota_bytes.map_or_else(|| "-".to_owned(), size)
}
