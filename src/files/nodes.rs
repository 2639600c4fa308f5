//! What a guest has looked up, by numbers that mean something to nobody else.
//!
//! A node is one file of one share. It is held by a descriptor as long as there are enough of
//! them. Those that were not used lately lose theirs, and are found again by the names by which
//! they were found last, if these still lead to the same file.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::io::Errno;

use super::host::{self, Result, Stat};
use super::limits::MAX_DEPTH;

/// The directory of the shares.
pub(super) const ROOT: u64 = 1;
/// Where the number of a share is in the number of a node: above the numbers of most files.
const SPACE_SHIFT: u32 = 48;
/// Moves a number that has a meaning of its own.
const RESERVED: u64 = 1 << 63;
/// So many files are asked whether they still have a name before one without loses its descriptor.
const MAX_ASKED: usize = 32;

/// Clocks of file systems are coarser than changes.
const TICK: Duration = Duration::from_millis(50);

/// The content that a guest may have in its cache.
pub(super) type Content = (SystemTime, u64);

#[derive(Debug)]
struct Node {
    share: usize,
    dev: u64,
    ino: u64,
    born: u64,
    /// Tells it, for the guest, from an older file with the same number.
    generation: u64,
    parent: u64,
    name: OsString,
    descriptor: Option<Arc<OwnedFd>>,
    /// How many times the guest has been told of it.
    lookups: u64,
    used: bool,
    content: Option<Content>,
}

/// A file by its descriptor.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) share: usize,
}

/// How a file was found: in the directory `parent` of a share.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) share: usize,
    pub(super) parent: u64,
    pub(super) name: OsString,
}

/// What to do to get a descriptor.
pub(super) enum Way {
    /// Nothing.
    Held(Held),
    /// Walk from there by the names, each leading to the file of its node.
    Walk(Held, Vec<Step>),
}

/// A name, and what must be there.
pub(super) struct Step {
    id: u64,
    name: OsString,
    dev: u64,
    ino: u64,
    born: u64,
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Nodes {
    map: HashMap<u64, Node>,
    /// Pairs of a share and a file system in it; their position tells their nodes apart.
    spaces: Vec<(usize, u64)>,
    /// Those that have descriptors, about the order of their use. May name others, and twice.
    queue: VecDeque<u64>,
    descriptors: usize,
    max_nodes: usize,
    max_descriptors: usize,
}

impl Nodes {
    pub(super) fn new(max_nodes: usize, max_descriptors: usize) -> Self {
        Self {
            map: HashMap::new(),
            spaces: Vec::new(),
            queue: VecDeque::new(),
            descriptors: 0,
            max_nodes,
            max_descriptors,
        }
    }

    /// The number of a file; a guest sees it as its inode's number. The same every time, as tools
    /// recognise files by it.
    pub(super) fn number(&mut self, share: usize, dev: u64, ino: u64) -> u64 {
        let known = self.spaces.iter().position(|space| *space == (share, dev));
        let space = known.unwrap_or_else(|| {
            self.spaces.push((share, dev));
            self.spaces.len() - 1
        });
        match ino ^ ((space as u64) << SPACE_SHIFT) {
            reserved @ (0 | ROOT | u64::MAX) => reserved ^ RESERVED,
            number => number,
        }
    }

    /// Notes that the guest is told of the file of `fd`; its number and generation. Fails with `ENFILE`
    /// when the guest knows too many.
    pub(super) fn add(
        &mut self,
        place: Place,
        stat: &Stat,
        fd: Arc<OwnedFd>,
    ) -> Result<(u64, u64)> {
        let id = self.number(place.share, stat.dev, stat.ino);
        let full = self.map.len() >= self.max_nodes;
        match self.map.get_mut(&id) {
            Some(node) if (node.share, node.dev, node.ino) != (place.share, stat.dev, stat.ino) => {
                return Err(Errno::IO);
            }
            Some(node) => {
                node.lookups = node.lookups.saturating_add(1);
                // A share is found by its number even where it is mounted in itself.
                if node.parent != ROOT {
                    (node.parent, node.name) = (place.parent, place.name);
                }
                // What is held keeps its number. An overlay shows another time once the file is
                // written to for the first time, and it is the same file.
                if node.born != stat.born && node.descriptor.is_none() {
                    // Another file with the number of one that is gone.
                    node.generation = stat.born;
                    node.content = None;
                }
                node.born = stat.born;
            }
            None if full => return Err(Errno::NFILE),
            None => {
                self.map.insert(
                    id,
                    Node {
                        share: place.share,
                        dev: stat.dev,
                        ino: stat.ino,
                        born: stat.born,
                        generation: stat.born,
                        parent: place.parent,
                        name: place.name,
                        descriptor: None,
                        lookups: 1,
                        used: false,
                        content: None,
                    },
                );
            }
        }
        let generation = self.map.get(&id).map_or(0, |node| node.generation);
        self.give(id, fd);
        Ok((id, generation))
    }

    /// Lets the node have a descriptor, which another may lose for it.
    fn give(&mut self, id: u64, fd: Arc<OwnedFd>) {
        let Some(node) = self.map.get_mut(&id) else { return };
        node.used = true;
        if node.descriptor.is_some() {
            return;
        }
        node.descriptor = Some(fd);
        self.descriptors += 1;
        self.queue.push_back(id);
        let mut asked = 0;
        while self.descriptors > self.max_descriptors {
            let Some(oldest) = self.queue.pop_front() else { break };
            let Some(node) = self.map.get_mut(&oldest) else { continue };
            let Some(fd) = &node.descriptor else { continue };
            let nameless = || host::stat(fd).is_ok_and(|stat| stat.nlink == 0);
            if node.used || oldest == id {
                node.used = false;
                self.queue.push_back(oldest);
            } else if asked < MAX_ASKED && nameless() {
                // It could not be found again.
                asked += 1;
                self.queue.push_back(oldest);
            } else {
                node.descriptor = None;
                self.descriptors -= 1;
            }
        }
        if self.queue.len() > 2 * self.descriptors + 1024 {
            let mut seen = HashSet::new();
            let map = &self.map;
            let holds = |id: &u64| map.get(id).is_some_and(|node| node.descriptor.is_some());
            self.queue.retain(|id| holds(id) && seen.insert(*id));
        }
    }

    /// How to get at node `id`. `roots` are the shares, which are never lost.
    pub(super) fn way(&mut self, id: u64, roots: &[Arc<OwnedFd>]) -> Result<Way> {
        let mut steps = Vec::new();
        let mut at = id;
        while steps.len() < MAX_DEPTH {
            let node = self.map.get_mut(&at).ok_or(Errno::STALE)?;
            node.used = true;
            let share = node.share;
            let held = match &node.descriptor {
                Some(fd) => Some(Arc::clone(fd)),
                None if node.parent == ROOT => roots.get(share).map(Arc::clone),
                None => None,
            };
            if let Some(fd) = held {
                let held = Held { fd, share };
                steps.reverse();
                return Ok(if steps.is_empty() { Way::Held(held) } else { Way::Walk(held, steps) });
            }
            steps.push(Step {
                id: at,
                name: node.name.clone(),
                dev: node.dev,
                ino: node.ino,
                born: node.born,
            });
            at = node.parent;
        }
        Err(Errno::STALE)
    }

    /// Notes what was found again.
    pub(super) fn found(&mut self, walked: Vec<(u64, Arc<OwnedFd>)>) {
        for (id, fd) in walked {
            self.give(id, fd);
        }
    }

    /// Notes that a file has another name.
    pub(super) fn renamed(&mut self, place: Place, stat: &Stat) {
        let id = self.number(place.share, stat.dev, stat.ino);
        if let Some(node) = self.map.get_mut(&id).filter(|node| node.parent != ROOT) {
            (node.parent, node.name) = (place.parent, place.name);
        }
    }

    /// Notes the content of a file that the guest is about to read; whether it has read the same
    /// before. What has been changed just `now` may change again and show the same time.
    pub(super) fn unchanged(&mut self, id: u64, content: Content, now: SystemTime) -> bool {
        let Some(node) = self.map.get_mut(&id) else { return false };
        let settled = now.duration_since(content.0).is_ok_and(|age| age > TICK);
        std::mem::replace(&mut node.content, settled.then_some(content)) == Some(content)
    }

    /// The guest has forgotten so many of the times that it was told of the node.
    pub(super) fn forget(&mut self, id: u64, times: u64) {
        let Some(node) = self.map.get_mut(&id) else { return };
        node.lookups = node.lookups.saturating_sub(times);
        if node.lookups == 0 {
            self.descriptors -= usize::from(node.descriptor.is_some());
            self.map.remove(&id);
        }
    }
}

/// Walks; all that is found on the way.
pub(super) fn walk(from: &Held, steps: Vec<Step>) -> Result<Vec<(u64, Arc<OwnedFd>)>> {
    let mut found: Vec<(u64, Arc<OwnedFd>)> = Vec::with_capacity(steps.len());
    for step in steps {
        let dir = found.last().map_or(&from.fd, |(_, fd)| fd);
        let fd = host::child(dir, &step.name).map_err(|_| Errno::STALE)?;
        let stat = host::stat(&fd)?;
        if (stat.dev, stat.ino, stat.born) != (step.dev, step.ino, step.born) {
            return Err(Errno::STALE);
        }
        found.push((step.id, Arc::new(fd)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests write files")]

    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use rustix::fs::{Mode, OFlags};

    use super::*;

    const FEW: usize = 4;

    /// A share, and the nodes of a guest that may hold only few descriptors.
    struct Guest {
        nodes: Nodes,
        roots: Vec<Arc<OwnedFd>>,
    }

    impl Guest {
        fn new(share: &Path) -> Self {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let root = rustix::fs::open(share, flags, Mode::empty()).unwrap();
            Self { nodes: Nodes::new(20, FEW), roots: vec![Arc::new(root)] }
        }

        fn root(&mut self) -> u64 {
            let place = Place { share: 0, parent: ROOT, name: "0".into() };
            let stat = host::stat(&self.roots[0]).unwrap();
            self.nodes.add(place, &stat, Arc::clone(&self.roots[0])).unwrap().0
        }

        fn lookup(&mut self, parent: u64, name: &str) -> Result<u64> {
            let dir = self.held(parent)?;
            let fd = host::child(&dir.fd, name.as_ref())?;
            let stat = host::stat(&fd)?;
            let place = Place { share: 0, parent, name: name.into() };
            Ok(self.nodes.add(place, &stat, Arc::new(fd))?.0)
        }

        fn held(&mut self, id: u64) -> Result<Held> {
            match self.nodes.way(id, &self.roots)? {
                Way::Held(held) => Ok(held),
                Way::Walk(from, steps) => {
                    let found = walk(&from, steps)?;
                    let fd = Arc::clone(&found.last().unwrap().1);
                    self.nodes.found(found);
                    Ok(Held { fd, share: 0 })
                }
            }
        }

        fn holds(&self, id: u64) -> bool {
            self.nodes.map[&id].descriptor.is_some()
        }

        /// Uses others until the node has no descriptor.
        fn lose(&mut self, root: u64, id: u64) {
            for _ in 0..10 {
                for name in 0..2 * FEW {
                    self.lookup(root, &name.to_string()).unwrap();
                }
            }
            assert!(!self.holds(id));
        }
    }

    fn share() -> (tempfile::TempDir, Guest) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("share/a/b")).unwrap();
        fs::write(dir.path().join("share/a/b/file"), "inside").unwrap();
        fs::create_dir_all(dir.path().join("out/b")).unwrap();
        fs::write(dir.path().join("out/b/file"), "outside").unwrap();
        for name in 0..2 * FEW {
            fs::write(dir.path().join(format!("share/{name}")), "").unwrap();
        }
        let guest = Guest::new(&dir.path().join("share"));
        (dir, guest)
    }

    #[test]
    fn what_lost_its_descriptor_is_found_again() {
        let (dir, mut guest) = share();
        let root = guest.root();
        let a = guest.lookup(root, "a").unwrap();
        let b = guest.lookup(a, "b").unwrap();
        let file = guest.lookup(b, "file").unwrap();
        let known = host::stat(guest.held(file).unwrap().fd).unwrap();
        guest.lose(root, file);
        guest.lose(root, a);
        assert!(guest.nodes.descriptors <= FEW);
        assert_eq!(host::stat(guest.held(file).unwrap().fd).unwrap().ino, known.ino);
        // A directory that was exchanged for a link, with the same names behind it.
        guest.lose(root, b);
        guest.lose(root, file);
        fs::rename(dir.path().join("share/a"), dir.path().join("share/away")).unwrap();
        symlink("../out", dir.path().join("share/a")).unwrap();
        assert_eq!(guest.held(file).unwrap_err(), Errno::STALE);
        assert_eq!(guest.lookup(a, "b").unwrap_err(), Errno::STALE);
        // Or for another directory.
        fs::remove_file(dir.path().join("share/a")).unwrap();
        fs::create_dir_all(dir.path().join("share/a/b")).unwrap();
        fs::write(dir.path().join("share/a/b/file"), "another").unwrap();
        assert_eq!(guest.held(file).unwrap_err(), Errno::STALE);
        fs::rename(dir.path().join("share/a"), dir.path().join("share/other")).unwrap();
        fs::rename(dir.path().join("share/away"), dir.path().join("share/a")).unwrap();
        assert!(guest.held(file).is_ok());
        // Told that it has another name, it is found by that.
        guest.lose(root, file);
        fs::rename(dir.path().join("share/a/b/file"), dir.path().join("share/moved")).unwrap();
        assert_eq!(guest.held(file).unwrap_err(), Errno::STALE);
        guest.nodes.renamed(Place { share: 0, parent: root, name: "moved".into() }, &known);
        assert!(guest.held(file).is_ok());
    }

    #[test]
    fn a_file_that_is_held_stays_the_same_one() {
        let (dir, mut guest) = share();
        let root = guest.root();
        let a = guest.lookup(root, "a").unwrap();
        let path = dir.path().join("share/a");
        let open = || Arc::new(OwnedFd::from(fs::File::open(&path).unwrap()));
        let place = || Place { share: 0, parent: root, name: "a".into() };
        let mut stat = host::stat(open()).unwrap();
        let first = guest.nodes.add(place(), &stat, open()).unwrap();
        // As an overlay tells of it when it was copied up.
        stat.born += 1;
        assert_eq!(guest.nodes.add(place(), &stat, open()).unwrap(), first);
        assert_eq!(first.0, a);
        // It cannot have been the same when nothing held it.
        guest.lose(root, a);
        stat.born += 1;
        assert_eq!(guest.nodes.add(place(), &stat, open()).unwrap(), (a, stat.born));
    }

    #[test]
    fn what_has_no_name_keeps_its_descriptor() {
        let (dir, mut guest) = share();
        let root = guest.root();
        fs::write(dir.path().join("share/gone"), "").unwrap();
        let gone = guest.lookup(root, "gone").unwrap();
        fs::remove_file(dir.path().join("share/gone")).unwrap();
        for _ in 0..10 {
            for name in 0..2 * FEW {
                guest.lookup(root, &name.to_string()).unwrap();
            }
        }
        assert!(guest.holds(gone));
    }

    #[test]
    fn no_more_than_there_may_be() {
        let (dir, mut guest) = share();
        let root = guest.root();
        for name in 0..30 {
            fs::write(dir.path().join(format!("share/{name}")), "").unwrap();
            let refused = guest.lookup(root, &name.to_string()).err();
            assert_eq!(refused, (name >= 19).then_some(Errno::NFILE), "{name}");
        }
        let five = guest.lookup(root, "5").unwrap();
        guest.nodes.forget(five, 1);
        assert!(guest.held(five).is_ok());
        guest.nodes.forget(five, u64::MAX);
        assert_eq!(guest.held(five).unwrap_err(), Errno::STALE);
        assert!(guest.lookup(root, "20").is_ok());
        assert!(guest.nodes.queue.len() <= 2 * FEW + 1024);
    }

    #[test]
    fn a_number_is_given_to_one_file() {
        let mut nodes = Nodes::new(1, 1);
        let mut seen = HashSet::new();
        for share in 0..3 {
            for dev in 0..3 {
                for ino in [0, 1, 2, 3, u64::from(u32::MAX), u64::MAX] {
                    assert!(seen.insert(nodes.number(share, dev, ino)), "{share} {dev} {ino}");
                }
            }
        }
        assert!(!seen.contains(&ROOT) && !seen.contains(&0) && !seen.contains(&u64::MAX));
        assert_eq!(nodes.number(0, 0, 77), 77);
    }
}
