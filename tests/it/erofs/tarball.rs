//! Archives made byte by byte, so that they can also be wrong.

/// An archive being written.
#[derive(Clone, Default)]
pub(super) struct Tar {
    bytes: Vec<u8>,
}

/// A header with the sum over it.
pub(super) fn header(path: &[u8], flag: u8, size: u64, link: &[u8]) -> [u8; 512] {
    let mut block = [0; 512];
    let put = |block: &mut [u8; 512], at: usize, bytes: &[u8]| {
        block[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(&mut block, 0, path);
    put(&mut block, 100, b"0000644\0");
    put(&mut block, 108, b"0000000\0");
    put(&mut block, 116, b"0000000\0");
    put(&mut block, 124, format!("{size:011o} ").as_bytes());
    put(&mut block, 136, b"00000000000 ");
    block[156] = flag;
    put(&mut block, 157, link);
    put(&mut block, 257, b"ustar\x0000");
    seal(block)
}

/// Puts the right sum into a header.
pub(super) fn seal(mut block: [u8; 512]) -> [u8; 512] {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

impl Tar {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A header as it is.
    pub(super) fn raw(mut self, block: &[u8]) -> Self {
        self.bytes.extend(block);
        self
    }

    /// Contents with their padding.
    pub(super) fn data(mut self, contents: &[u8]) -> Self {
        self.bytes.extend(contents);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// Any entry. Long paths and link targets go into a PAX header.
    pub(super) fn entry(self, path: &[u8], flag: u8, mode: u16, link: &[u8], data: &[u8]) -> Self {
        let mut this = self;
        let mut records: Vec<(&str, &[u8])> = Vec::new();
        if path.len() > 100 {
            records.push(("path", path));
        }
        if link.len() > 100 {
            records.push(("linkpath", link));
        }
        if !records.is_empty() {
            this = this.pax(&records);
        }
        let (path, link) = (&path[..path.len().min(100)], &link[..link.len().min(100)]);
        let mut block = header(path, flag, data.len() as u64, link);
        block[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        this.raw(&seal(block)).data(data)
    }

    /// An extended header for the next entry.
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let length =
                (1..).map(|digits| body + digits).find(|n| n.to_string().len() + body == *n);
            bytes.extend(format!("{} {key}=", length.unwrap()).as_bytes());
            bytes.extend(*value);
            bytes.push(b'\n');
        }
        self.raw(&header(b"pax", b'x', bytes.len() as u64, b"")).data(&bytes)
    }

    pub(super) fn dir(self, path: &str, mode: u16) -> Self {
        self.entry(path.as_bytes(), b'5', mode, b"", b"")
    }

    pub(super) fn file(self, path: &str, contents: impl AsRef<[u8]>) -> Self {
        self.entry(path.as_bytes(), b'0', 0o644, b"", contents.as_ref())
    }

    pub(super) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path.as_bytes(), b'2', 0o777, target.as_bytes(), b"")
    }

    pub(super) fn link(self, path: &str, target: &str) -> Self {
        self.entry(path.as_bytes(), b'1', 0o644, target.as_bytes(), b"")
    }

    /// A character (`3`) or block (`4`) device, in octal digits.
    pub(super) fn device(self, path: &str, flag: u8, major: u32, minor: u32) -> Self {
        let mut block = header(path.as_bytes(), flag, 0, b"");
        block[329..336].copy_from_slice(format!("{major:07o}").as_bytes());
        block[337..344].copy_from_slice(format!("{minor:07o}").as_bytes());
        self.raw(&seal(block))
    }

    /// What has been written, without an end.
    pub(super) fn cut(self) -> Vec<u8> {
        self.bytes
    }

    /// The whole archive.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.bytes.extend([0; 1024]);
        self.bytes
    }
}
