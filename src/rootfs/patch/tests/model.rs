//! A tree in memory that patches are applied to by hand.

use std::collections::BTreeMap;

use crate::image::erofs::{Attr, Builder};
use crate::spec::{GuestPath, Patch};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Model {
    Dir(u16, BTreeMap<String, Model>),
    File(u16, Vec<u8>),
    Link(String),
}

use Model::{Dir, Link};

impl Model {
    pub(super) fn new() -> Self {
        Dir(0o755, BTreeMap::new())
    }

    pub(super) fn get(&self, path: &[String]) -> Option<&Model> {
        path.iter().try_fold(self, |node, name| match node {
            Dir(_, entries) => entries.get(name),
            Model::File(..) | Link(_) => None,
        })
    }

    /// Where a path leads; links count down to nothing.
    pub(super) fn walk(
        &self,
        from: Vec<String>,
        path: &str,
        last: bool,
        left: usize,
    ) -> Option<Vec<String>> {
        let mut here = if path.starts_with('/') { Vec::new() } else { from };
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        for (index, name) in names.iter().enumerate() {
            let is_last = index + 1 == names.len();
            match *name {
                "." => continue,
                ".." => {
                    here.pop();
                    continue;
                }
                _ => {}
            }
            let mut next = here.clone();
            next.push((*name).to_owned());
            match self.get(&next) {
                Some(Link(target)) if last || !is_last => {
                    // What comes last in a link that is followed is followed.
                    here = self.walk(here, target, true, left.checked_sub(1)?)?;
                    if !is_last && matches!(self.get(&here), Some(Model::File(..))) {
                        return None;
                    }
                }
                Some(Model::File(..)) if !is_last => return None,
                _ => here = next,
            }
        }
        Some(here)
    }

    pub(super) fn resolve(&self, path: &GuestPath, last: bool) -> Option<Vec<String>> {
        self.walk(Vec::new(), path.as_str(), last, 8)
    }

    /// The directory at `path`, made with its parents.
    pub(super) fn dir(
        &mut self,
        path: &[String],
    ) -> Option<(&mut u16, &mut BTreeMap<String, Model>)> {
        let mut node = self;
        for name in path {
            let Dir(_, entries) = node else { return None };
            node = entries.entry(name.clone()).or_insert_with(Model::new);
        }
        match node {
            Dir(mode, entries) => Some((mode, entries)),
            Model::File(..) | Link(_) => None,
        }
    }

    pub(super) fn put(&mut self, path: &[String], node: Model, replace: bool) -> Option<()> {
        match self.get(path) {
            Some(Dir(..)) => return None,
            Some(_) if !replace => return None,
            _ => {}
        }
        let (last, parents) = path.split_last()?;
        self.dir(parents)?.1.insert(last.clone(), node);
        Some(())
    }

    pub(super) fn apply(&mut self, patch: &Patch, sources: &Model) -> Option<()> {
        let bits =
            |mode: &Option<u32>, default| mode.map_or(default, |mode| u16::try_from(mode).unwrap());
        let source_at = |source: &str| {
            let names: Vec<String> = source.rsplit('/').take(1).map(str::to_owned).collect();
            sources.get(&names).cloned()
        };
        match patch {
            Patch::Text { path, content, mode, replace } => {
                let path = self.resolve(path, false)?;
                self.put(&path, Model::File(bits(mode, 0o644), content.clone().into()), *replace)
            }
            Patch::Mkdir { path, mode } => {
                let path = self.resolve(path, true)?;
                let (found, _) = self.dir(&path)?;
                *found = bits(mode, *found);
                Some(())
            }
            Patch::Append { path, content } => {
                let path = self.resolve(path, true)?;
                let Some(Model::File(mode, bytes)) = self.get(&path).cloned() else { return None };
                let bytes = [bytes.as_slice(), content.as_bytes()].concat();
                self.put(&path, Model::File(mode, bytes), true)
            }
            Patch::CopyFile { source, to, mode, replace, .. } => {
                let Some(Model::File(own, bytes)) = source_at(source) else { return None };
                let path = self.resolve(to, false)?;
                self.put(&path, Model::File(bits(mode, own), bytes), *replace)
            }
            Patch::CopyDir { source, to, replace, .. } => {
                let path = self.resolve(to, true)?;
                if matches!(self.get(&path), Some(Dir(..))) && !replace {
                    return None;
                }
                self.merge(path, &source_at(source)?)
            }
            Patch::Symlink { target, at, replace } => {
                let path = self.resolve(at, false)?;
                self.put(&path, Link(target.clone()), *replace)
            }
            Patch::Remove { path } => {
                let path = self.resolve(path, false)?;
                let (last, parents) = path.split_last()?;
                if self.get(&path).is_some() {
                    self.dir(parents)?.1.remove(last);
                }
                Some(())
            }
        }
    }

    pub(super) fn merge(&mut self, to: Vec<String>, source: &Model) -> Option<()> {
        let Dir(mode, entries) = source else { return self.put(&to, source.clone(), true) };
        let is_new = self.get(&to).is_none();
        let (found, _) = self.dir(&to)?;
        if is_new {
            *found = *mode;
        }
        for (name, child) in entries {
            let mut below = to.clone();
            below.push(name.clone());
            if matches!(child, Dir(..)) {
                let path = GuestPath::new(&format!("/{}", below.join("/"))).ok()?;
                below = self.resolve(&path, true)?;
            }
            self.merge(below, child)?;
        }
        Some(())
    }

    pub(super) fn write(&self, path: &str, image: &mut Builder) {
        match self {
            Dir(mode, entries) => {
                image.dir(path, Attr::mode(*mode)).unwrap();
                for (name, child) in entries {
                    child.write(&format!("{path}/{name}"), image);
                }
            }
            Model::File(mode, bytes) => image.bytes(path, Attr::mode(*mode), bytes).unwrap(),
            Link(target) => image.symlink(path, Attr::mode(0o777), target).unwrap(),
        }
    }

    pub(super) fn flat(&self, path: &str, out: &mut BTreeMap<String, String>) {
        let shown = match self {
            Dir(mode, entries) => {
                for (name, child) in entries {
                    child.flat(&format!("{path}/{name}"), out);
                }
                format!("dir {mode:o}")
            }
            Model::File(mode, bytes) => format!("file {mode:o} {}", String::from_utf8_lossy(bytes)),
            Link(target) => format!("link {target}"),
        };
        out.insert(path.to_owned(), shown);
    }
}
