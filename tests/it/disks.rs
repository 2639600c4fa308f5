//! Disk images: what their files say of themselves, and what is made of it. What guests see of them is
//! in `tests/vm`.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use expect_test::expect;
use msb::home::Home;
use msb::image::{ImageCache, ImageError, ImageRecord, MemoryRows, NoProgress, RegistryAccess};
use msb::spec::{DiskFormat, Image, ImageSource};

use crate::environment::Environment;

/// Of a disk whose content can be told from zeros and from itself elsewhere.
const DISK_BYTES: usize = 9 << 20;

struct Fixture {
    dir: tempfile::TempDir,
    cache: ImageCache,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("h"));
        home.create().unwrap();
        let cache = ImageCache::new(home, Arc::new(MemoryRows::default()));
        Self { dir, cache }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A raw disk with holes, zeros and bytes, at `raw.img`.
    fn raw(&self) -> Vec<u8> {
        let mut bytes = vec![0; DISK_BYTES];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let is_there = matches!(index >> 16, 0 | 3 | 4 | 70 | 143);
            if is_there {
                *byte = u8::try_from((index / 7 + (index >> 16)) % 251).unwrap();
            }
        }
        fs::write(self.path("raw.img"), &bytes).unwrap();
        bytes
    }

    fn convert(&self, name: &str, options: &[&str]) -> PathBuf {
        let to = self.path(name);
        let mut command = qemu_img();
        command.args(["convert", "-f", "raw"]).args(options);
        run(command.arg(self.path("raw.img")).arg(&to));
        to
    }

    fn image(&self, path: &Path, writable: bool) -> Image {
        let path = path.display().to_string();
        let source = ImageSource::Disk { path, fstype: None, partition: None, writable };
        Image { source, platform: None }
    }

    fn pull(&self, image: &Image) -> Result<ImageRecord, ImageError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let access = RegistryAccess::anonymous();
        runtime.block_on(self.cache.pull(image, &access, Arc::new(NoProgress)))
    }

    fn pulled(&self, path: &Path) -> ImageRecord {
        self.pull(&self.image(path, false)).unwrap()
    }

    /// Why it is refused; the directory left out.
    fn refused(&self, path: &Path) -> String {
        let error = self.pull(&self.image(path, false)).expect_err("it was taken").to_string();
        assert!(self.cache.cached(&self.image(path, false)).is_err());
        let error = error.replace(&format!("{}/", self.dir.path().display()), "");
        error.split_once(": ").unwrap().1.to_owned()
    }
}

fn qemu_img() -> Command {
    Command::new("qemu-img")
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().expect("qemu-img is missing: apt-get install qemu-utils");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_format_is_told_by_its_content() {
    let fixture = Fixture::new();
    let raw = fixture.raw();
    let taken = |name: &str, options: &[&str]| {
        let path = fixture.convert(name, options);
        let record = fixture.pulled(&path);
        let format = record.disk.unwrap();
        // The name says nothing.
        let again = path.with_extension("data");
        fs::rename(&path, &again).unwrap();
        let renamed = fixture.pulled(&again);
        assert_eq!((renamed.disk, &renamed.digest), (Some(format), &record.digest), "{name}");
        if format == DiskFormat::Raw {
            let mut made = fs::read(&renamed.file).unwrap();
            made.truncate(raw.len());
            assert!(made == raw, "{name} has become another disk");
        }
        (format, renamed.file == again)
    };
    assert_eq!(taken("copy.raw", &["-O", "raw"]), (DiskFormat::Raw, true));
    let qcow2 = DiskFormat::Qcow2 { bytes: DISK_BYTES as u64 };
    assert_eq!(taken("3.qcow2", &["-O", "qcow2"]), (qcow2, true));
    let old = ["-c", "-O", "qcow2", "-o", "compat=0.10,cluster_size=4k"];
    assert_eq!(taken("2.qcow2", &old), (qcow2, true));
    assert_eq!(taken("sparse.vmdk", &["-O", "vmdk"]), (DiskFormat::Raw, false));
    let stream = ["-O", "vmdk", "-o", "subformat=streamOptimized"];
    assert_eq!(taken("stream.vmdk", &stream), (DiskFormat::Raw, false));
}

#[test]
fn vmdk_of_several_files() {
    let fixture = Fixture::new();
    let raw = fixture.raw();
    let flat = fixture.convert("flat.vmdk", &["-O", "vmdk", "-o", "subformat=monolithicFlat"]);
    let record = fixture.pulled(&flat);
    assert_eq!(record.file, fixture.path("flat-flat.vmdk"));
    assert_eq!(record.disk, Some(DiskFormat::Raw));
    for kind in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let options = format!("subformat={kind}");
        let path = fixture.convert(&format!("{kind}.vmdk"), &["-O", "vmdk", "-o", &options]);
        let record = fixture.pulled(&path);
        let mut made = fs::read(&record.file).unwrap();
        made.truncate(raw.len());
        assert!(made == raw, "{kind} has become another disk");
        // A part is as much of the disk as the descriptor.
        let part = fs::read_dir(fixture.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let part =
            part.filter(|found| *found != path && found.display().to_string().contains(kind));
        let part = part.last().unwrap();
        File::options().write(true).open(&part).unwrap().write_all_at(b"x", 300_000).unwrap();
        assert_ne!(fixture.pulled(&path).digest, record.digest);
    }
    let text = "# Disk DescriptorFile\nparentCID=ffffffff\n\
                RW 16 FLAT \"raw.img\" 2\nRW 8 ZERO\nRW 8 FLAT \"raw.img\" 0\n";
    fs::write(fixture.path("parts.vmdk"), text).unwrap();
    let made = fs::read(fixture.pulled(&fixture.path("parts.vmdk")).file).unwrap();
    assert!(made == [&raw[1024..9216], &[0; 4096], &raw[..4096]].concat());
}

#[test]
fn disks_that_lead_elsewhere_are_refused() {
    let fixture = Fixture::new();
    fixture.raw();
    let path = fixture.path("layer.qcow2");
    let mut layer = qemu_img();
    let base = fixture.path("raw.img");
    run(layer.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(base).arg(&path));
    expect!["layer.qcow2: it is a layer over another file, which is not opened; `qemu-img convert -O qcow2` makes one file of both"]
        .assert_eq(&fixture.refused(&path));
    let path = fixture.path("data.qcow2");
    let mut data = qemu_img();
    let option = format!("data_file={}", fixture.path("data").display());
    run(data.args(["create", "-q", "-f", "qcow2", "-o", &option]).arg(&path).arg("1M"));
    expect![
        "data.qcow2: its data are in another file; `qemu-img convert -O qcow2` puts them into one"
    ]
    .assert_eq(&fixture.refused(&path));
    // qemu-img makes one only where it can measure processor time, which a busy machine hinders.
    let path = fixture.convert("locked.qcow2", &["-O", "qcow2"]);
    let luks = 2_u32.to_be_bytes();
    File::options().write(true).open(&path).unwrap().write_all_at(&luks, 32).unwrap();
    expect!["locked.qcow2: it is encrypted; `qemu-img convert` makes a copy that is not"]
        .assert_eq(&fixture.refused(&path));

    let descriptor = |lines: &str| {
        let path = fixture.path("made.vmdk");
        fs::write(&path, format!("# Disk DescriptorFile\nparentCID=ffffffff\n{lines}\n")).unwrap();
        fixture.refused(&path)
    };
    symlink("/etc/passwd", fixture.path("link")).unwrap();
    for name in ["/etc/passwd", "../raw.img", "..", "a/b", "", "sub\\raw.img"] {
        let said = descriptor(&format!("RW 1 FLAT \"{name}\" 0"));
        assert_eq!(said, format!("made.vmdk: a part is not in its directory: {name}"));
    }
    let said = descriptor("RW 1 FLAT \"link\" 0");
    assert!(said.starts_with("link: cannot be read"), "{said}");
    assert_eq!(descriptor("RW 1 FLAT \"h\" 0"), "h: it is not a regular file");
    let said = descriptor("RW 99999 FLAT \"raw.img\" 0");
    assert_eq!(said, "raw.img: it is shorter than its descriptor says");
    let said = descriptor("RW 1 FLAT \"raw.img\" 18446744073709551615");
    assert!(said.starts_with("made.vmdk: a part makes no sense"), "{said}");
    let said = descriptor("RW 8 SPARSE \"raw.img\"");
    assert!(said.starts_with("made.vmdk: a part is neither flat nor sparse"), "{said}");
    let said = descriptor("RW 8 VMFSRDM \"raw.img\"");
    assert!(said.starts_with("made.vmdk: a part is neither flat nor sparse"), "{said}");
    let said = descriptor("RW 8 FLAT \"raw.img\"\nparentFileNameHint=\"x.vmdk\"");
    assert!(said.starts_with("made.vmdk: it is a snapshot of another file"), "{said}");
    assert_eq!(descriptor("RW 0 ZERO"), "made.vmdk: the size of the disk makes no sense");
    assert!(descriptor(&"RW 1 ZERO\n".repeat(1500)).contains("more than 1024 parts"));
    for (at, magic, name) in [(0, &b"vhdxfile"[..], "VHDX"), (0x40, b"\x7f\x10\xda\xbe", "VDI")] {
        let path = fixture.path("other");
        fs::write(&path, vec![0; 4096]).unwrap();
        File::options().write(true).open(&path).unwrap().write_all_at(magic, at).unwrap();
        let said = fixture.refused(&path);
        assert!(said.starts_with(&format!("other: {name} is not supported")), "{said}");
    }
    fs::write(fixture.path("empty"), "").unwrap();
    assert_eq!(fixture.refused(&fixture.path("empty")), "empty: it is empty");
    assert_eq!(fixture.refused(&fixture.path("h")), "h: it is not a regular file");
    assert_eq!(fixture.refused(&fixture.path("none")), "there is no such file or directory");
    let image = fixture.image(&fixture.convert("w.vmdk", &["-O", "vmdk"]), true);
    let error = fixture.pull(&image).unwrap_err().to_string();
    assert!(error.contains("a VMDK cannot be written to"), "{error}");
    assert_eq!(fs::read_dir(fixture.cache_dir()).unwrap().count(), 0, "something was published");
}

impl Fixture {
    fn cache_dir(&self) -> PathBuf {
        Home::at(self.path("h")).erofs()
    }
}

/// What a guest writes to the start of its disk is never taken for what the host has said.
#[test]
fn what_is_written_to_a_disk_does_not_lead_elsewhere() {
    let fixture = Fixture::new();
    let raw = fixture.raw();
    let (disk, other) = (fixture.path("disk.img"), fixture.path("other"));
    fs::write(&disk, &raw).unwrap();
    fs::write(&other, &raw).unwrap();
    let record = fixture.pull(&fixture.image(&disk, true)).unwrap();
    assert_eq!((&record.file, record.disk), (&disk, Some(DiskFormat::Raw)));
    let guest_writes = |bytes: &[u8]| {
        File::options().write(true).open(&disk).unwrap().write_all_at(bytes, 0).unwrap();
    };
    let said = |writable| {
        let error = fixture.pull(&fixture.image(&disk, writable)).expect_err("it was taken");
        error.to_string().rsplit_once("disk.img: ").unwrap().1.to_owned()
    };

    let lines = "# Disk DescriptorFile\nparentCID=ffffffff\nRW 16 FLAT \"other\" 0\n\0";
    guest_writes(lines.as_bytes());
    expect!["a VMDK cannot be written to; `qemu-img convert -O qcow2` makes a file that can"]
        .assert_eq(&said(true));
    expect!["it describes a VMDK and is not called `.vmdk`"].assert_eq(&said(false));

    let qcow2 = fixture.convert("disk.qcow2", &["-O", "qcow2"]);
    guest_writes(&fs::read(&qcow2).unwrap()[..4096]);
    expect!["its content is qcow2; to be written to, it must be called `.qcow2`, since a guest can write what looks like that to any disk"]
        .assert_eq(&said(true));

    // Where the name says it, the content has to.
    let record = fixture.pull(&fixture.image(&qcow2, true)).unwrap();
    assert_eq!(record.disk, Some(DiskFormat::Qcow2 { bytes: DISK_BYTES as u64 }));
    fs::write(&qcow2, &raw).unwrap();
    let error = fixture.pull(&fixture.image(&qcow2, true)).unwrap_err().to_string();
    assert!(error.ends_with("disk.qcow2: it is called `.qcow2` and is something else"), "{error}");
    // One part or many.
    let flat = fixture.convert("flat.vmdk", &["-O", "vmdk", "-o", "subformat=monolithicFlat"]);
    let error = fixture.pull(&fixture.image(&flat, true)).unwrap_err().to_string();
    assert!(error.contains("a VMDK cannot be written to"), "{error}");
}

/// Every bit of both headers is turned over: whatever a file says, the answer comes, and nothing is
/// made that is larger than the disk may be.
#[test]
fn headers_that_lie() {
    let fixture = Fixture::new();
    fixture.raw();
    for (name, options, bytes) in [
        ("a.qcow2", &["-O", "qcow2"][..], 112),
        ("a.vmdk", &["-O", "vmdk"], 80),
        ("b.vmdk", &["-O", "vmdk", "-o", "subformat=streamOptimized"], 80),
    ] {
        let path = fixture.convert(name, options);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let (mut taken, mut refused) = (0, 0);
        for bit in (0..bytes * 8).step_by(3) {
            let at = bit / 8;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], at).unwrap();
            match fixture.pull(&fixture.image(&path, false)) {
                Ok(record) => {
                    assert!(record.size_bytes <= 2 << 40);
                    if record.file != path {
                        fs::remove_file(record.file).unwrap();
                    }
                    taken += 1;
                }
                Err(_) => refused += 1,
            }
            file.write_all_at(&byte, at).unwrap();
        }
        assert!(taken > 0 && refused > 20, "{name}: {taken} taken, {refused} refused");
    }
}

const WEB: &str = "name = \"web\"\n[sandbox.web]\ncmd = [\"sleep\", \"1000\"]\n";

#[test]
fn an_edited_disk_replaces_what_lies_over_it() {
    let env = Environment::new();
    let file = |image: &str| env.write("Sandboxfile", &format!("{WEB}image = {image}\n"));
    file("\"./disk.img\"");
    let said = env.msb("up -d").expect(1).stderr;
    assert!(said.contains("disk.img: there is no such file or directory"), "{said}");
    let path = env.project().join("disk.img");
    fs::write(&path, vec![1; 1 << 20]).unwrap();
    env.msb("up -d").expect(0);
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
    env.msb("stop").expect(0);
    env.msb("start").expect(0);

    // The disk of the sandbox lies over what the image was: it does not start over another.
    fs::write(&path, vec![2; 1 << 20]).unwrap();
    let plan = env.msb("plan --detailed-exitcode").expect(2).stdout;
    assert!(plan.contains(": image $TEST/p/disk.img changed "), "{plan}");
    env.msb("stop").expect(0);
    let said = env.msb("start").expect(1).stderr;
    assert!(
        said.contains("$TEST/p/disk.img has changed, and the sandbox's disk fits what it was"),
        "{said}"
    );
    env.msb("up -d -y").expect(0).ends_with("1 replaced");

    // Another partition is other content; a written image is what it is.
    file("{ disk = \"./disk.img\", partition = 2 }");
    env.msb("up -d -y").expect(0).ends_with("1 replaced");
    file("{ disk = \"./disk.img\", writable = true }");
    env.msb("up -d -y").expect(0).ends_with("1 replaced");
    assert!(!env.home().sandbox(&env.row("web").id).join("upper.ext4").exists());
    fs::write(&path, vec![3; 1 << 20]).unwrap();
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
    env.msb("down").expect(0);
    assert_eq!(fs::read(&path).unwrap(), vec![3; 1 << 20]);
    assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
}

#[test]
fn a_disk_has_one_writer_or_readers() {
    let env = Environment::new();
    fs::write(env.project().join("disk.img"), vec![1; 1 << 20]).unwrap();
    let sandbox = |name: &str, writable: bool| {
        format!(
            "[sandbox.{name}]\ncmd = [\"sleep\", \"1000\"]\n\
             image = {{ disk = \"./disk.img\", writable = {writable} }}\n"
        )
    };
    let file = |a: bool, b: bool| {
        env.write(
            "Sandboxfile",
            &format!("name = \"two\"\n{}{}", sandbox("a", a), sandbox("b", b)),
        );
    };
    file(false, false);
    env.msb("up -d").expect(0);
    env.msb("down").expect(0);
    for (a, b) in [(true, true), (true, false), (false, true)] {
        file(a, b);
        env.msb("up -d a").expect(0);
        let said = env.msb("up -d b").expect(1).stderr;
        let words = "disk.img is a disk with one writer at a time, and the sandbox `two/a` has it";
        assert!(said.contains(words), "{said}");
        env.msb("stop a").expect(0);
        env.msb("start b").expect(0);
        env.msb("down").expect(0);
    }
}

#[test]
fn a_copied_disk_is_an_image_of_the_cache() {
    let env = Environment::new();
    let fixture = Fixture::new();
    fixture.raw();
    let path = fixture.convert("disk.vmdk", &["-O", "vmdk"]);
    fs::rename(path, env.project().join("disk.vmdk")).unwrap();
    env.write("Sandboxfile", &format!("{WEB}image = \"./disk.vmdk\"\n"));
    env.msb("up -d").expect(0);
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
    let listed = env.msb("images ls").expect(0).stdout;
    assert!(listed.contains("disk:$TEST/p/disk.vmdk"), "{listed}");
    env.msb("images prune -y --all").expect(0);
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
    env.msb("down").expect(0);
    env.msb("images prune -y --all").expect(0);
    assert_eq!(fs::read_dir(env.home().erofs()).unwrap().count(), 0);
}
