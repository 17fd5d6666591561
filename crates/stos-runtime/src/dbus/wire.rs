// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Messages as D-Bus has them on the wire (D-Bus Specification, "Type System" and "Message Protocol").
//!
//! Each value is aligned to its own size, counted from the start of the message; a struct to 8. What is written is little-endian,
//! what is read may be either.

use super::DBusError;

/// The greatest message that is read: the answers that are waited for have a few hundred bytes.
pub(super) const MOST: usize = 1 << 20;

/// How much of a message tells how long it is.
pub(super) const FIXED: usize = 16;

/// Fields of a header, by their codes.
mod field {
    pub const PATH: u8 = 1;
    pub const INTERFACE: u8 = 2;
    pub const MEMBER: u8 = 3;
    pub const ERROR_NAME: u8 = 4;
    pub const REPLY_SERIAL: u8 = 5;
    pub const DESTINATION: u8 = 6;
    pub const SENDER: u8 = 7;
    pub const SIGNATURE: u8 = 8;
}

/// A value with its type: what a variant holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `t`
    Number(u64),
    /// `s`
    Text(String),
    /// `as`
    Texts(Vec<String>),
    /// `au`
    Pids(Vec<u32>),
    /// `ay`: a set, the lowest number in the lowest bit of the first byte.
    Set(Vec<u8>),
}

/// What kind of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Call = 1,
    Return = 2,
    Error = 3,
    Signal = 4,
}

/// A method of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Method<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
}

/// A message that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(super) kind: Kind,
    pub(super) reply_serial: u32,
    pub(super) path: String,
    pub(super) interface: String,
    pub(super) member: String,
    pub(super) error_name: String,
    pub(super) sender: String,
    pub(super) signature: String,
    is_little: bool,
    body: Vec<u8>,
}

/// Values, one after the other.
#[derive(Debug, Default, Clone)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    signature: String,
}

impl Writer {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, number: u32) {
        self.align(4);
        self.bytes.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature_value(&mut self, signature: &str) {
        self.bytes.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.bytes.extend(signature.as_bytes());
        self.bytes.push(0);
    }

    /// An array whose items have the alignment `to`; its length counts from the first item on.
    fn array(&mut self, to: usize, items: impl FnOnce(&mut Self)) {
        self.u32(0);
        let length_at = self.bytes.len() - 4;
        self.align(to);
        let start = self.bytes.len();
        items(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn variant(&mut self, value: &Value) {
        match value {
            Value::Bool(value) => {
                self.signature_value("b");
                self.u32(u32::from(*value));
            }
            Value::Number(number) => {
                self.signature_value("t");
                self.align(8);
                self.bytes.extend(number.to_le_bytes());
            }
            Value::Text(text) => {
                self.signature_value("s");
                self.text(text);
            }
            Value::Texts(texts) => {
                self.signature_value("as");
                self.array(4, |writer| texts.iter().for_each(|text| writer.text(text)));
            }
            Value::Pids(pids) => {
                self.signature_value("au");
                self.array(4, |writer| pids.iter().for_each(|pid| writer.u32(*pid)));
            }
            Value::Set(bytes) => {
                self.signature_value("ay");
                self.array(1, |writer| writer.bytes.extend(bytes));
            }
        }
    }

    /// `s`
    pub(crate) fn string(mut self, text: &str) -> Self {
        self.signature.push('s');
        self.text(text);
        self
    }

    /// `b`
    pub(crate) fn boolean(mut self, value: bool) -> Self {
        self.signature.push('b');
        self.u32(u32::from(value));
        self
    }

    /// `a(sv)`
    pub(crate) fn properties(mut self, properties: &[(String, Value)]) -> Self {
        self.signature.push_str("a(sv)");
        self.array(8, |writer| {
            for (name, value) in properties {
                writer.align(8);
                writer.text(name);
                writer.variant(value);
            }
        });
        self
    }

    /// `a(sa(sv))`, with nothing in it.
    pub(crate) fn no_units(mut self) -> Self {
        self.signature.push_str("a(sa(sv))");
        self.array(8, |_| {});
        self
    }

    /// A field of the header: a struct of its code and a variant.
    fn field(&mut self, code: u8, signature: &str, write: impl FnOnce(&mut Self)) {
        self.align(8);
        self.bytes.push(code);
        self.signature_value(signature);
        write(self);
    }

    /// The message that calls `method` with these values.
    pub(super) fn into_call(self, serial: u32, method: Method<'_>) -> Vec<u8> {
        let mut call = Self::default();
        // Little-endian, no flags, version 1.
        call.bytes.extend([b'l', Kind::Call as u8, 0, 1]);
        call.u32(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
        call.u32(serial);
        call.array(8, |writer| {
            writer.field(field::PATH, "o", |it| it.text(method.path));
            writer.field(field::INTERFACE, "s", |it| it.text(method.interface));
            writer.field(field::MEMBER, "s", |it| it.text(method.member));
            writer.field(field::DESTINATION, "s", |it| it.text(method.destination));
            if !self.signature.is_empty() {
                writer.field(field::SIGNATURE, "g", |it| it.signature_value(&self.signature));
            }
        });
        call.align(8);
        call.bytes.extend(self.bytes);
        call.bytes
    }
}

/// How long a message is whose first [`FIXED`] bytes are these.
pub(super) fn message_length(fixed: &[u8; FIXED]) -> Result<usize, DBusError> {
    let is_little = match (fixed[0], fixed[3]) {
        (b'l', 1) => true,
        (b'B', 1) => false,
        _ => return Err(DBusError::malformed("no message of version 1")),
    };
    let mut reader = Reader { bytes: fixed, at: 4, is_little };
    let body = reader.u32()? as usize;
    reader.at = 12;
    let fields = reader.u32()? as usize;
    let length = FIXED.saturating_add(fields).checked_next_multiple_of(8).and_then(|head| head.checked_add(body));
    length.filter(|length| *length <= MOST).ok_or_else(|| DBusError::malformed("a message of more than 1 MiB"))
}

impl Message {
    /// Reads a whole message. `None` for one of a kind that is to be ignored.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, DBusError> {
        let kind = match bytes.get(1) {
            Some(1) => Kind::Call,
            Some(2) => Kind::Return,
            Some(3) => Kind::Error,
            Some(4) => Kind::Signal,
            _ => return Ok(None),
        };
        let is_little = bytes[0] == b'l';
        let text = String::new;
        let mut message = Self {
            kind,
            reply_serial: 0,
            path: text(),
            interface: text(),
            member: text(),
            error_name: text(),
            sender: text(),
            signature: text(),
            is_little,
            body: Vec::new(),
        };
        let mut reader = Reader { bytes, at: 12, is_little };
        let end = reader.u32()? as usize;
        let end = FIXED.checked_add(end).filter(|end| *end <= bytes.len()).ok_or_else(DBusError::short)?;
        while reader.at < end {
            reader.align(8);
            let code = reader.u8()?;
            match (code, reader.signature()?.as_str()) {
                (field::REPLY_SERIAL, "u") => message.reply_serial = reader.u32()?,
                (field::SIGNATURE, "g") => message.signature = reader.signature()?,
                (code, "s" | "o") => {
                    let text = reader.text()?;
                    match code {
                        field::PATH => message.path = text,
                        field::INTERFACE => message.interface = text,
                        field::MEMBER => message.member = text,
                        field::ERROR_NAME => message.error_name = text,
                        field::SENDER => message.sender = text,
                        _ => {}
                    }
                }
                // How many descriptors come along: none is taken, so none comes.
                (_, "u") => drop(reader.u32()?),
                (_, "g") => drop(reader.signature()?),
                (_, other) => return Err(DBusError::malformed(format!("a header field of type {other:?}"))),
            }
        }
        message.body = bytes.get(end.next_multiple_of(8)..).ok_or_else(DBusError::short)?.to_vec();
        Ok(Some(message))
    }

    /// Its values, of the signature that is expected.
    pub(crate) fn values(&self, signature: &str) -> Result<Reader<'_>, DBusError> {
        if self.signature != signature {
            return Err(DBusError::malformed(format!("expected values {signature:?}, found {:?}", self.signature)));
        }
        Ok(Reader { bytes: &self.body, at: 0, is_little: self.is_little })
    }

    /// What an error says, if it is text.
    pub(super) fn error_text(&self) -> String {
        let is_text = self.signature.starts_with('s');
        let text = Reader { bytes: &self.body, at: 0, is_little: self.is_little }.text();
        if is_text { text.unwrap_or_default() } else { String::new() }
    }
}

/// Values that are read one after the other.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    is_little: bool,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Result<&[u8], DBusError> {
        let end = self.at.checked_add(count).ok_or_else(DBusError::short)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(DBusError::short)?;
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, DBusError> {
        Ok(self.take(1)?[0])
    }

    fn text_of(&mut self, length: usize) -> Result<String, DBusError> {
        let text = self.take(length)?.to_vec();
        self.take(1)?;
        String::from_utf8(text).map_err(|_| DBusError::malformed("text that is not UTF-8"))
    }

    fn signature(&mut self) -> Result<String, DBusError> {
        let length = self.u8()?;
        self.text_of(length.into())
    }

    /// `u`
    pub(crate) fn u32(&mut self) -> Result<u32, DBusError> {
        self.align(4);
        let is_little = self.is_little;
        let bytes = self.take(4)?.try_into().unwrap_or_default();
        Ok(if is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    /// `s` or `o`
    pub(crate) fn text(&mut self) -> Result<String, DBusError> {
        let length = self.u32()?;
        self.text_of(length as usize)
    }

    /// `v` that holds text.
    pub(crate) fn text_variant(&mut self) -> Result<String, DBusError> {
        match self.signature()?.as_str() {
            "s" => self.text(),
            other => Err(DBusError::malformed(format!("expected text, found a value of type {other:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's own example of an array ("Marshaling containers"): a struct's alignment is no part of the length.
    #[test]
    fn arrays_are_those_of_the_specification() {
        let mut writer = Writer::default();
        writer.array(8, |writer| {
            writer.align(8);
            writer.bytes.extend(5_u64.to_le_bytes());
        });
        assert_eq!(writer.bytes, [8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    }

    /// And of strings ("Marshaling basic types"): "foo", "+" and "bar", each aligned to 4.
    #[test]
    fn strings_are_those_of_the_specification() {
        let writer = Writer::default().string("foo").string("+").string("bar");
        let expected = [3, 0, 0, 0, b'f', b'o', b'o', 0, 1, 0, 0, 0, b'+', 0, 0, 0, 3, 0, 0, 0, b'b', b'a', b'r', 0];
        assert_eq!((writer.bytes.as_slice(), writer.signature.as_str()), (&expected[..], "sss"));
        let mut reader = Reader { bytes: &expected, at: 0, is_little: true };
        assert_eq!([(); 3].map(|()| reader.text().unwrap()), ["foo", "+", "bar"]);
        // The same, as a peer of the other byte order has it.
        let big = [0, 0, 0, 3, b'f', b'o', b'o', 0];
        assert_eq!(Reader { bytes: &big, at: 0, is_little: false }.text().unwrap(), "foo");
    }

    #[test]
    fn properties_are_structs_of_a_name_and_a_variant() {
        let properties =
            [("A".to_owned(), Value::Bool(true)), ("B".into(), Value::Number(2)), ("C".into(), Value::Pids(vec![7]))];
        let writer = Writer::default().properties(&properties);
        #[rustfmt::skip]
        let expected = [
            52, 0, 0, 0, 0, 0, 0, 0,
            1, 0, 0, 0, b'A', 0, 1, b'b', 0, 0, 0, 0, 1, 0, 0, 0,
            1, 0, 0, 0, b'B', 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(&writer.bytes[4..40], &expected[4..]);
        #[rustfmt::skip]
        let rest = [
            2, 0, 0, 0, 0, 0, 0, 0,
            1, 0, 0, 0, b'C', 0, 2, b'a', b'u', 0, 0, 0, 4, 0, 0, 0, 7, 0, 0, 0,
        ];
        assert_eq!(&writer.bytes[40..], &rest);
        assert_eq!(writer.bytes[0] as usize, writer.bytes.len() - 8);
        let sets = Writer::default().properties(&[("D".into(), Value::Set(vec![9, 8]))]);
        assert_eq!(sets.bytes[14..], [2, b'a', b'y', 0, 0, 0, 2, 0, 0, 0, 9, 8]);
        assert!(writer.no_units().signature.ends_with("a(sa(sv))"));
    }

    #[test]
    fn a_call_is_read_as_it_was_written() {
        let method = Method { destination: "a.b", path: "/c", interface: "d.e", member: "F" };
        let bytes = Writer::default().string("x").boolean(true).into_call(7, method);
        assert_eq!(bytes[..4], [b'l', 1, 0, 1]);
        assert_eq!(message_length(bytes[..FIXED].try_into().unwrap()).unwrap(), bytes.len());
        let read = Message::parse(&bytes).unwrap().unwrap();
        assert_eq!((read.path.as_str(), read.interface.as_str(), read.member.as_str()), ("/c", "d.e", "F"));
        let mut values = read.values("sb").unwrap();
        assert_eq!((values.text().unwrap().as_str(), values.u32().unwrap()), ("x", 1));
        assert!(read.values("s").is_err());
        for length in 0..bytes.len() {
            // Cut short it is refused, or has less in it; nothing panics.
            if let Ok(Some(cut)) = Message::parse(&bytes[..length]) {
                assert!(cut.values("sb").and_then(|mut values| values.text().and_then(|_| values.u32())).is_err());
            }
        }
    }

    #[test]
    fn a_message_that_is_too_long_or_none_is_refused() {
        let mut fixed = [0; FIXED];
        assert!(message_length(&fixed).is_err());
        (fixed[0], fixed[3]) = (b'l', 1);
        assert_eq!(message_length(&fixed).unwrap(), FIXED);
        fixed[12] = 1;
        assert_eq!(message_length(&fixed).unwrap(), FIXED + 8);
        fixed[4..8].fill(0xff);
        assert!(message_length(&fixed).is_err());
    }
}
