//! One 512-byte tar header: POSIX ustar and the GNU variant.

use super::error::Problem;

/// Size of a header, and the unit that contents are padded to.
pub(super) const BLOCK: usize = 512;

/// Which fields a header has beyond those of 1979.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    V7,
    Ustar,
    Gnu,
}

/// A header whose checksum is right.
#[derive(Debug)]
pub(super) struct Header {
    block: [u8; BLOCK],
    variant: Variant,
}

/// Where data are in a sparse file: (offset, length).
pub(super) type Segments = Vec<(u64, u64)>;

/// The sparse part of a GNU header.
#[derive(Debug)]
pub(super) struct GnuSparse {
    pub(super) segments: Segments,
    /// Whether a block with more segments follows.
    pub(super) more: bool,
    /// Size of the file with its holes.
    pub(super) size: u64,
}

impl Header {
    /// Checks the sum. `None` for a block of zeros, which is no header.
    pub(super) fn new(block: [u8; BLOCK]) -> Result<Option<Self>, Problem> {
        if block == [0; BLOCK] {
            return Ok(None);
        }
        let stored = octal(&block[148..156]).ok_or(Problem::Checksum)?;
        let (before, after) = (&block[..148], &block[156..]);
        let bytes = || before.iter().chain([b' '; 8].iter()).chain(after);
        let unsigned: u64 = bytes().map(|byte| u64::from(*byte)).sum();
        // Some old programs summed up signed characters.
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        if stored != unsigned && i64::try_from(stored) != Ok(signed) {
            return Err(Problem::Checksum);
        }
        let variant = match &block[257..265] {
            b"ustar  \0" => Variant::Gnu,
            [b'u', b's', b't', b'a', b'r', ..] => Variant::Ustar,
            _ => Variant::V7,
        };
        Ok(Some(Self { block, variant }))
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.block[156]
    }

    /// The path, put together from its two fields.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.block[..100]);
        let prefix = text(&self.block[345..500]);
        if self.variant == Variant::Ustar && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.block[157..257]).to_vec()
    }

    /// Permission bits; whatever else the field holds is dropped.
    pub(super) fn mode(&self) -> Result<u16, Problem> {
        let mode = self.unsigned(100..108, "mode")?;
        u16::try_from(mode & 0o7777).map_err(|_| Problem::Number("mode"))
    }

    pub(super) fn uid(&self) -> Result<u64, Problem> {
        self.unsigned(108..116, "uid")
    }

    pub(super) fn gid(&self) -> Result<u64, Problem> {
        self.unsigned(116..124, "gid")
    }

    pub(super) fn size(&self) -> Result<u64, Problem> {
        self.unsigned(124..136, "size")
    }

    pub(super) fn mtime(&self) -> Result<i64, Problem> {
        number(&self.block[136..148]).ok_or(Problem::Number("mtime"))
    }

    /// Major and minor device number.
    pub(super) fn device(&self) -> Result<(u64, u64), Problem> {
        if self.variant == Variant::V7 {
            return Ok((0, 0));
        }
        Ok((self.unsigned(329..337, "devmajor")?, self.unsigned(337..345, "devminor")?))
    }

    /// What a GNU header says about a sparse file.
    pub(super) fn gnu_sparse(&self) -> Result<GnuSparse, Problem> {
        if self.variant != Variant::Gnu {
            return Err(Problem::Sparse("not a GNU header"));
        }
        let segments = gnu_segments(&self.block[386..482])?;
        let size = self.unsigned(483..495, "realsize")?;
        Ok(GnuSparse { segments, more: self.block[482] != 0, size })
    }

    fn unsigned(&self, field: std::ops::Range<usize>, name: &'static str) -> Result<u64, Problem> {
        let value = number(&self.block[field]).ok_or(Problem::Number(name))?;
        u64::try_from(value).map_err(|_| Problem::Number(name))
    }
}

/// Sparse segments (offset, length) of a GNU header or extension block; an empty field ends them.
pub(super) fn gnu_segments(bytes: &[u8]) -> Result<Segments, Problem> {
    let mut segments = Vec::new();
    for pair in bytes.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let field = |bytes: &[u8]| number(bytes).and_then(|value| u64::try_from(value).ok());
        match (field(&pair[..12]), field(&pair[12..])) {
            (Some(offset), Some(length)) => segments.push((offset, length)),
            _ => return Err(Problem::Sparse("bad number")),
        }
    }
    Ok(segments)
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal text, or base 256 when the top bit is set. An empty field is zero.
fn number(field: &[u8]) -> Option<i64> {
    match field[0] {
        first if first & 0x80 == 0 => i64::try_from(octal(field)?).ok(),
        first => {
            let negative = first & 0x40 != 0;
            let start = if negative { i128::from(first) - 0x100 } else { i128::from(first & 0x7f) };
            let value = field[1..].iter().try_fold(start, |value, byte| {
                value.checked_mul(256)?.checked_add(i128::from(*byte))
            });
            i64::try_from(value?).ok()
        }
    }
}

fn octal(field: &[u8]) -> Option<u64> {
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    if !digits[end..].iter().all(blank) {
        return None;
    }
    digits[..end].iter().try_fold(0_u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value.checked_mul(8)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"77777777777 "), Some(0o77_777_777_777));
        assert_eq!(number(&[0; 8]), Some(0));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(b"12 34\0\0\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]), Some(1 << 24));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0x80, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        let mut largest = [0xff; 12];
        largest[0] = 0xbf;
        assert_eq!(number(&largest), None);
    }

    #[test]
    fn checksum() {
        let mut block = [0; BLOCK];
        block[0] = b'a';
        assert_eq!(Header::new(block).unwrap_err(), Problem::Checksum);
        let sum = format!("{:06o}\0 ", u32::from(b'a') + 8 * 32);
        block[148..156].copy_from_slice(sum.as_bytes());
        assert_eq!(Header::new(block).unwrap().unwrap().path(), b"a");
        assert!(Header::new([0; BLOCK]).unwrap().is_none());
    }
}
