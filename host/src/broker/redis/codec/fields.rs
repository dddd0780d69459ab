//! The parts of a binary head: numbers, texts and fields.
//!
//! A number is a varint: seven bits in each byte, the lowest first, and the high bit set in each byte but the last. A signed
//! number is first folded: 0, -1, 1, -2 become 0, 1, 2, 3. A text is its size and its bytes. A field is a tag, the size of its
//! value, and the value. So a reader skips a field that it does not know.

use super::head::{CodecError, DataSize};
use crate::event::{DataKind, Timestamp};

/// The most bytes of a number.
const MAX_NUMBER_BYTES: usize = 10;

/// Writes numbers, texts and fields.
pub(super) struct FieldWriter(Vec<u8>);

/// Reads what [`FieldWriter`] wrote. Every method but `is_empty` fails with [`CodecError`] if the bytes do not fit.
#[derive(Clone, Copy)]
pub(super) struct FieldReader<'a>(&'a [u8]);

impl FieldWriter {
    pub(super) fn with_capacity(size_bytes: usize) -> Self {
        Self(Vec::with_capacity(size_bytes))
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn number(&mut self, number: u64) {
        push_number(&mut self.0, number);
    }

    pub(super) fn signed(&mut self, number: i64) {
        self.number((number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(size_of_bytes(text.as_bytes()));
        self.bytes(text.as_bytes());
    }

    /// A field with these bytes.
    pub(super) fn field(&mut self, tag: u8, value: &[u8]) {
        self.0.push(tag);
        self.number(size_of_bytes(value));
        self.bytes(value);
    }

    /// A field with a text, if there is one.
    pub(super) fn text_field(&mut self, tag: u8, text: Option<&str>) {
        if let Some(text) = text {
            self.field(tag, text.as_bytes());
        }
    }

    /// A field with a number.
    pub(super) fn number_field(&mut self, tag: u8, number: u64) {
        self.nested(tag, |value| value.number(number));
    }

    /// A field with a count; nothing if the count is 0.
    pub(super) fn count_field(&mut self, tag: u8, count: u32) {
        if count > 0 {
            self.number_field(tag, u64::from(count));
        }
    }

    /// A field with the size of data, twice, and 1 more if they are binary.
    pub(super) fn data_size_field(&mut self, tag: u8, DataSize { kind, size_bytes }: DataSize) {
        self.number_field(tag, (size_bytes as u64) << 1 | u64::from(kind == DataKind::Binary));
    }

    /// A field with what `write` adds.
    pub(super) fn nested(&mut self, tag: u8, write: impl FnOnce(&mut Self)) {
        self.0.push(tag);
        let begin = self.0.len();
        write(self);
        let size_bytes = size_of_bytes(&self.0[begin..]);
        if size_bytes < 0x80 {
            // Usually one byte is enough.
            self.0.insert(begin, size_bytes.to_le_bytes()[0]);
        } else {
            let mut size = Vec::with_capacity(MAX_NUMBER_BYTES);
            push_number(&mut size, size_bytes);
            self.0.splice(begin..begin, size);
        }
    }
}

/// Appends a number to bytes.
pub(super) fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn size_of_bytes(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

impl<'a> FieldReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes that are left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn byte(&mut self) -> Result<u8, CodecError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn bytes(&mut self, size_bytes: usize) -> Result<&'a [u8], CodecError> {
        let (bytes, rest) = self.0.split_at_checked(size_bytes).ok_or_else(CodecError::cut_short)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or_else(CodecError::cut_short)?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(super) fn number(&mut self) -> Result<u64, CodecError> {
        let mut number = 0;
        for place in 0..MAX_NUMBER_BYTES {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let shifted = bits << (7 * place);
            if shifted >> (7 * place) != bits {
                break;
            }
            number |= shifted;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(CodecError::Damaged("a number in it is too large".into()))
    }

    pub(super) fn signed(&mut self) -> Result<i64, CodecError> {
        let folded = self.number()?;
        Ok((folded >> 1).cast_signed() ^ -(folded & 1).cast_signed())
    }

    pub(super) fn size(&mut self) -> Result<usize, CodecError> {
        usize::try_from(self.number()?).map_err(|_| CodecError::cut_short())
    }

    pub(super) fn text(&mut self) -> Result<&'a str, CodecError> {
        let size_bytes = self.size()?;
        Self(self.bytes(size_bytes)?).whole_text()
    }

    /// A time as 6 bytes, the highest first.
    pub(super) fn unix_ms(&mut self) -> Result<Timestamp, CodecError> {
        let [a, b, c, d, e, f] = self.array()?;
        in_range(Some(i64::from_be_bytes([0, 0, a, b, c, d, e, f])))
    }

    /// A time that is stored as a signed number of ms after another time, in Unix ms.
    pub(super) fn time_after(&mut self, unix_ms: i64) -> Result<Timestamp, CodecError> {
        in_range(unix_ms.checked_add(self.signed()?))
    }

    /// A size of data, with their kind.
    pub(super) fn data_size(&mut self) -> Result<DataSize, CodecError> {
        let number = self.number()?;
        let kind = if number & 1 == 1 { DataKind::Binary } else { DataKind::Text };
        Ok(DataSize { kind, size_bytes: usize::try_from(number >> 1).map_err(|_| CodecError::cut_short())? })
    }

    /// The next field: its tag and its value.
    pub(super) fn field(&mut self) -> Result<(u8, Self), CodecError> {
        let tag = self.byte()?;
        let size_bytes = self.size()?;
        Ok((tag, Self(self.bytes(size_bytes)?)))
    }

    /// All that is left, as text.
    pub(super) fn whole_text(self) -> Result<&'a str, CodecError> {
        std::str::from_utf8(self.0).map_err(|_| CodecError::Damaged("a text in it is not UTF-8".into()))
    }

    /// All that is left, as one value.
    pub(super) fn whole<T>(mut self, read: impl FnOnce(&mut Self) -> Result<T, CodecError>) -> Result<T, CodecError> {
        let value = read(&mut self)?;
        if self.is_empty() { Ok(value) } else { Err(CodecError::Damaged("a value in it is too long".into())) }
    }

    /// All that is left, as a count.
    pub(super) fn whole_count(self) -> Result<u32, CodecError> {
        let number = self.whole(Self::number)?;
        u32::try_from(number).map_err(|_| CodecError::Damaged("a count in it is too large".into()))
    }
}

fn in_range(unix_ms: Option<i64>) -> Result<Timestamp, CodecError> {
    let unix_ms = unix_ms.filter(|unix_ms| (0..=Timestamp::MAX.unix_ms()).contains(unix_ms));
    unix_ms.map(Timestamp::from_unix_ms).ok_or_else(|| CodecError::Damaged("a time in it is out of range".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_small_ones_take_one_byte() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut writer = FieldWriter::with_capacity(0);
            writer.number(number);
            writer.signed(number.cast_signed());
            let bytes = writer.into_bytes();
            let mut reader = FieldReader::new(&bytes);
            assert_eq!((reader.number(), reader.signed()), (Ok(number), Ok(number.cast_signed())), "{bytes:?}");
            assert!(reader.is_empty());
        }
        let mut writer = FieldWriter::with_capacity(0);
        writer.signed(-64);
        assert_eq!(writer.into_bytes(), [127]);
    }

    #[test]
    fn numbers_that_are_too_large_or_too_long_are_refused() {
        let too_large = [&[0xff; 9][..], &[2]].concat();
        let too_long = [0x80; 11];
        for bytes in [&too_large[..], &too_long, &[0x80], &[]] {
            assert!(matches!(FieldReader::new(bytes).number(), Err(CodecError::Damaged(_))), "{bytes:?}");
        }
    }

    #[test]
    fn nested_fields_of_every_size_come_back() {
        for size_bytes in [0, 1, 127, 128, 16_383, 16_384, 100_000] {
            let mut writer = FieldWriter::with_capacity(0);
            writer.nested(7, |value| value.bytes(&vec![9; size_bytes]));
            writer.field(8, b"next");
            let bytes = writer.into_bytes();
            let mut reader = FieldReader::new(&bytes);
            let (tag, value) = reader.field().unwrap();
            assert_eq!((tag, value.rest()), (7, &vec![9; size_bytes][..]));
            let (tag, value) = reader.field().unwrap();
            assert_eq!((tag, value.whole_text(), reader.is_empty()), (8, Ok("next"), true));
        }
    }
}
