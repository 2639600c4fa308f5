//! PAX extended headers (POSIX.1-2001): records of the form `LENGTH KEY=VALUE\n`.

use std::collections::BTreeMap;

use super::error::Problem;

/// What an extended header says about the entry that follows. Later records win.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: PaxSparse,
}

/// GNU sparse files in PAX archives, formats 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    /// `GNU.sparse.major` and `.minor`.
    pub(super) version: (Option<u64>, Option<u64>),
    pub(super) name: Option<Vec<u8>>,
    /// Size with holes (`size` in formats 0.x, `realsize` in 1.0).
    pub(super) size: Option<u64>,
    /// Formats 0.0 and 0.1: offsets and lengths, alternating.
    pub(super) map: Option<Vec<u64>>,
}

impl Pax {
    /// Reads the records of one extended header over those of earlier ones.
    pub(super) fn parse(&mut self, mut bytes: &[u8]) -> Result<(), Problem> {
        while !bytes.is_empty() {
            let space = bytes.iter().take(20).position(|byte| *byte == b' ');
            let space = space.ok_or(Problem::Pax("record without length"))?;
            let length = decimal(&bytes[..space]).and_then(|length| usize::try_from(length).ok());
            let length = length.ok_or(Problem::Pax("bad record length"))?;
            let record = bytes.get(space + 1..length).ok_or(Problem::Pax("bad record length"))?;
            let record = record.strip_suffix(b"\n").ok_or(Problem::Pax("record without end"))?;
            let equals = record.iter().position(|byte| *byte == b'=');
            let equals = equals.ok_or(Problem::Pax("record without value"))?;
            self.record(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        // An empty value takes back what an earlier header said.
        let text = || (!value.is_empty()).then(|| value.to_vec());
        let number = |field| match value {
            b"" => Ok(None),
            _ => decimal(value).map(Some).ok_or(Problem::Number(field)),
        };
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = number("size")?,
            b"uid" => self.uid = number("uid")?,
            b"gid" => self.gid = number("gid")?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(value).ok_or(Problem::Number("mtime"))?),
            b"GNU.sparse.major" => self.sparse.version.0 = number("GNU.sparse.major")?,
            b"GNU.sparse.minor" => self.sparse.version.1 = number("GNU.sparse.minor")?,
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.size = number("GNU.sparse.size")?;
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let map = self.sparse.map.get_or_insert_default();
                let is_offset = key == b"GNU.sparse.offset";
                if map.len().is_multiple_of(2) != is_offset {
                    return Err(Problem::Sparse("offsets and lengths do not alternate"));
                }
                map.push(decimal(value).ok_or(Problem::Sparse("bad number"))?);
            }
            b"GNU.sparse.map" => {
                let numbers = value.split(|byte| *byte == b',').map(decimal).collect();
                let numbers: Option<Vec<u64>> =
                    if value.is_empty() { Some(vec![]) } else { numbers };
                self.sparse.map = Some(numbers.ok_or(Problem::Sparse("bad number"))?);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Ok(())
    }
}

/// A decimal number without sign.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Seconds with an optional sign and fraction, rounded down to nanoseconds.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0_u32, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    match (negative, nanos) {
        (false, _) => Some((seconds, nanos)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some(((-seconds).checked_sub(1)?, 1_000_000_000 - nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"1.1234567899"), Some((1, 123_456_789)));
        assert_eq!(time(b"1.x"), None);
        assert_eq!(time(b""), None);
        assert_eq!(time(b"99999999999999999999"), None);
    }

    #[test]
    fn records() {
        let mut pax = Pax::default();
        pax.parse(b"12 path=abc\n28 SCHILY.xattr.user.k=a=b\n\n20 mtime=1234567.89\n").unwrap();
        assert_eq!(pax.path.unwrap(), b"abc");
        assert_eq!(pax.xattrs[b"user.k".as_slice()], b"a=b\n");
        assert_eq!(pax.mtime, Some((1_234_567, 890_000_000)));
        for bad in ["12path=abc\n", "12 path=abcd", "99 path=abc\n", "2 \n", "0 x=\n", "7 path\n"] {
            assert!(Pax::default().parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
