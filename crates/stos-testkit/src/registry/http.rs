// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HTTP/1.1 on the wire (RFC 9112): as much as registries' clients speak, and wrong where a fault wants it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConnection, StreamOwned};

use crate::registry::Stop;
use crate::registry::tls::Tls;

/// The longest line of a header that is read, in bytes.
const LINE_MAX: u64 = 64 << 10;

/// A request with its body.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Gives a query parameter, unescaped.
    pub(super) fn query(&self, name: &str) -> Option<String> {
        self.queries(name).into_iter().next()
    }

    /// Gives all query parameters of a name, unescaped.
    pub(super) fn queries(&self, name: &str) -> Vec<String> {
        fields(self.target.split_once('?').unwrap_or_default().1, name)
    }

    /// Gives a field of a form, unescaped.
    pub(super) fn form(&self, name: &str) -> Option<String> {
        fields(&String::from_utf8_lossy(&self.body), name).into_iter().next()
    }
}

fn fields(text: &str, name: &str) -> Vec<String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| unescape(value)).collect()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digits: Option<Vec<u8>> = (byte == b'%').then(|| rest.clone().take(2).collect());
        let escaped = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest.nth(1);
            }
            None => bytes.push(if byte == b'+' { b' ' } else { byte }),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// How the sending of an answer goes wrong.
#[derive(Debug, Default)]
pub(super) struct Cut {
    pub(super) truncate_after: Option<u64>,
    pub(super) is_reset: bool,
    pub(super) stall_after: Option<u64>,
    pub(super) trickle: Option<(usize, Duration)>,
    pub(super) header_pause: Option<Duration>,
    pub(super) start_pause: Option<Duration>,
}

/// An answer.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Box<dyn Read + Send>,
    pub(super) framing: Framing,
    pub(super) cut: Cut,
    pub(super) raw: Option<Vec<u8>>,
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        let body = Box::new(io::empty());
        Self { status, headers: Vec::new(), body, framing: Framing::Length(0), cut: Cut::default(), raw: None }
    }

    pub(super) fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn with_bytes(self, bytes: Vec<u8>) -> Self {
        let length = bytes.len() as u64;
        self.with_body(Box::new(io::Cursor::new(bytes)), length)
    }

    pub(super) fn with_body(mut self, body: Box<dyn Read + Send>, length: u64) -> Self {
        self.body = body;
        self.framing = Framing::Length(length);
        self
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} Answer\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match self.framing {
            Framing::Length(length) => head.push_str(&format!("content-length: {length}\r\n")),
            Framing::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
            Framing::UntilClose => head.push_str("connection: close\r\n"),
        }
        head + "\r\n"
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A socket that may be shared with who breaks it.
struct Socket(Arc<TcpStream>);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One client's connection.
pub(super) struct Connection {
    socket: Arc<TcpStream>,
    stream: BufReader<Box<dyn Stream>>,
}

impl Connection {
    pub(super) fn new(socket: Arc<TcpStream>, tls: Option<&Tls>) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let raw = Socket(Arc::clone(&socket));
        let stream: Box<dyn Stream> = match tls {
            Some(tls) => {
                let connection = ServerConnection::new(tls.config()).map_err(io::Error::other)?;
                Box::new(StreamOwned::new(connection, raw))
            }
            None => Box::new(raw),
        };
        Ok(Self { socket, stream: BufReader::with_capacity(64 << 10, stream) })
    }

    /// Reads a request. `None` where the client has ended the connection, or speaks something else: it is told so.
    pub(super) fn read_request(&mut self) -> io::Result<Option<Request>> {
        // A TLS handshake has no line to wait for.
        let is_http = match self.stream.fill_buf()? {
            [] => return Ok(None),
            bytes => bytes[0].is_ascii_uppercase(),
        };
        let line = if is_http { self.read_line()? } else { String::new() };
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some("HTTP/1.1")) = (words.next(), words.next(), words.next()) else {
            let bytes = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            self.write(bytes)?;
            self.linger();
            return Ok(None);
        };
        let mut request = Request { method: method.to_owned(), target: target.to_owned(), ..Request::default() };
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        request.body = self.read_body(&request)?;
        Ok(Some(request))
    }

    /// Closes the sending side and takes what still comes: closing with unread bytes would reset the connection, and the
    /// client might never see the answer.
    fn linger(&mut self) {
        drop(self.socket.shutdown(Shutdown::Write));
        drop(self.socket.set_read_timeout(Some(Duration::from_millis(200))));
        drop(io::copy(&mut (&*self.socket).take(LINE_MAX), &mut io::sink()));
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        (&mut self.stream).take(LINE_MAX).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned())
    }

    fn read_body(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if request.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            loop {
                let line = self.read_line()?;
                let size = u64::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
                let size = size.map_err(|_| io::ErrorKind::InvalidData)?;
                self.read_exactly(size, &mut body)?;
                self.read_line()?;
                if size == 0 {
                    return Ok(body);
                }
            }
        }
        let length = request.header("content-length").map_or(Ok(0), str::parse);
        self.read_exactly(length.map_err(|_| io::ErrorKind::InvalidData)?, &mut body)?;
        Ok(body)
    }

    fn read_exactly(&mut self, size: u64, body: &mut Vec<u8>) -> io::Result<()> {
        let n = (&mut self.stream).take(size).read_to_end(body)?;
        if n as u64 == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes)?;
        stream.flush()
    }

    /// Sends an answer. `true` where the connection may serve another request.
    pub(super) fn send(&mut self, mut reply: Reply, method: &str, stop: &Stop) -> io::Result<bool> {
        if let Some(pause) = reply.cut.start_pause
            && stop.wait(Some(pause))
        {
            return Ok(false);
        }
        if let Some(raw) = &reply.raw {
            self.write(raw)?;
            return Ok(false);
        }
        let head = reply.head();
        match reply.cut.header_pause {
            Some(pause) => {
                for byte in head.bytes() {
                    self.write(&[byte])?;
                    if stop.wait(Some(pause)) {
                        return Ok(false);
                    }
                }
            }
            None => self.write(head.as_bytes())?,
        }
        if method == "HEAD" {
            return Ok(reply.framing != Framing::UntilClose);
        }
        self.send_body(&mut reply, stop)
    }

    fn send_body(&mut self, reply: &mut Reply, stop: &Stop) -> io::Result<bool> {
        let is_chunked = reply.framing == Framing::Chunked;
        let mut buffer = vec![0; 256 << 10];
        let mut sent = 0;
        loop {
            let mut room = buffer.len();
            for limit in [reply.cut.truncate_after, reply.cut.stall_after].into_iter().flatten() {
                room = room.min(usize::try_from(limit - sent).unwrap_or(usize::MAX));
            }
            if room == 0 {
                return self.cut(reply);
            }
            if let Some((bytes, _)) = reply.cut.trickle {
                room = room.min(bytes);
            }
            let n = reply.body.read(&mut buffer[..room])?;
            if n == 0 {
                break;
            }
            if is_chunked {
                self.write(format!("{n:x}\r\n").as_bytes())?;
            }
            self.write(&buffer[..n])?;
            if is_chunked {
                self.write(b"\r\n")?;
            }
            sent += n as u64;
            if let Some((_, pause)) = reply.cut.trickle
                && stop.wait(Some(pause))
            {
                return Ok(false);
            }
        }
        if is_chunked {
            self.write(b"0\r\n\r\n")?;
        }
        // After a wrong length nobody knows where the next answer begins.
        Ok(match reply.framing {
            Framing::Length(length) => length == sent,
            Framing::Chunked => true,
            Framing::UntilClose => false,
        })
    }

    fn cut(&mut self, reply: &Reply) -> io::Result<bool> {
        if reply.cut.stall_after.is_some() {
            // Until the client has enough of it, or the registry ends: both break the socket.
            drop(self.stream.fill_buf());
        }
        if reply.cut.is_reset {
            rustix::net::sockopt::set_socket_linger(&*self.socket, Some(Duration::ZERO))?;
        }
        Ok(false)
    }
}
