//! Reading the file of a backup.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};

use aws_lc_rs::aead::Aad;
use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use flate2::read::GzDecoder;

use super::{
    ContainerError, DATA_BYTES, FORMAT, FRAME_BYTES, Head, MAGIC, MAX_JSON_BYTES, MAX_LINE_BYTES,
    Manifest, Part, PartHead, Seal, TAG_BYTES, hex, io_error,
};

/// Reads frames as one stream.
struct FrameReader {
    file: BufReader<File>,
    seal: Option<Seal>,
    number: u64,
    frame: Vec<u8>,
    at: usize,
    is_over: bool,
}

impl FrameReader {
    fn fill(&mut self) -> Result<(), ContainerError> {
        let damaged = |_| ContainerError::Damaged("a frame is not whole");
        let mut head = [0; 5];
        self.file.read_exact(&mut head).map_err(damaged)?;
        let [last, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        if last > 1 || length > FRAME_BYTES + TAG_BYTES {
            return Err(ContainerError::Damaged("a frame is not as it was written"));
        }
        self.frame.resize(length, 0);
        self.file.read_exact(&mut self.frame).map_err(damaged)?;
        self.is_over = last == 1;
        if let Some(seal) = &self.seal {
            let nonce = Seal::nonce(self.number, self.is_over);
            let opened = seal
                .key
                .open_in_place(nonce, Aad::from(&seal.head), &mut self.frame);
            let length = opened.map_err(|_| ContainerError::WrongPassphrase)?.len();
            self.frame.truncate(length);
        }
        self.number += 1;
        self.at = 0;
        Ok(())
    }
}

impl Read for FrameReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.frame.len() && !self.is_over {
            self.fill()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        let taken = into.len().min(self.frame.len() - self.at);
        into[..taken].copy_from_slice(&self.frame[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}

/// A piece of what is in a backup.
pub enum Record {
    /// A part begins.
    Begin(PartHead),
    /// More of it.
    Data(Vec<u8>),
    /// It was whole.
    End,
    /// That was all; every part was whole.
    Over(Box<Manifest>),
}

/// Reads a backup. Gives no record of a file that is not whole, and ends no part whose checksum differs.
pub struct Reader {
    /// What stands in front.
    pub head: Head,
    content: GzDecoder<FrameReader>,
    parts: Vec<Part>,
    open: Option<(String, u64, Context)>,
}

impl Reader {
    /// Checks the file as a whole, and begins to read it.
    pub fn open(mut file: File, passphrase: Option<&str>) -> Result<Self, ContainerError> {
        check(&mut file)?;
        file.rewind().map_err(io_error("read the backup"))?;
        let mut file = BufReader::new(file);
        line(&mut file)?;
        let text = line(&mut file)?;
        let head: Head = serde_json::from_slice(&text)
            .map_err(|_| ContainerError::Damaged("its head cannot be read"))?;
        let seal = match (&head.sealed, passphrase) {
            (None, _) => None,
            (Some(_), None) => return Err(ContainerError::NeedsPassphrase),
            (Some(sealing), Some(passphrase)) => Some(Seal::new(sealing, passphrase, &text)?),
        };
        let mut frames = FrameReader {
            file,
            seal,
            number: 0,
            frame: Vec::new(),
            at: 0,
            is_over: false,
        };
        // The file is as it was written: what does not open now has another passphrase.
        frames.fill()?;
        Ok(Self {
            head,
            content: GzDecoder::new(frames),
            parts: Vec::new(),
            open: None,
        })
    }

    fn exact(&mut self, into: &mut [u8]) -> Result<(), ContainerError> {
        self.content
            .read_exact(into)
            .map_err(|_| ContainerError::Damaged("it ends too early"))
    }

    /// The next record.
    pub fn record(&mut self) -> Result<Record, ContainerError> {
        let mut head = [0; 5];
        self.exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        let most = if kind == b'D' {
            DATA_BYTES
        } else {
            MAX_JSON_BYTES
        };
        if length > most {
            return Err(ContainerError::Damaged("a record is too long"));
        }
        let mut bytes = vec![0; length];
        self.exact(&mut bytes)?;
        let unreadable = |_| ContainerError::Damaged("a record cannot be read");
        match kind {
            b'B' => {
                let head: PartHead = serde_json::from_slice(&bytes).map_err(unreadable)?;
                self.open = Some((head.name.clone(), 0, Context::new(&SHA256)));
                Ok(Record::Begin(head))
            }
            b'D' => {
                let Some((_, length, digest)) = &mut self.open else {
                    return Err(ContainerError::Damaged("data belongs to no part"));
                };
                *length += bytes.len() as u64;
                digest.update(&bytes);
                Ok(Record::Data(bytes))
            }
            b'E' => {
                let said: Part = serde_json::from_slice(&bytes).map_err(unreadable)?;
                let Some((name, bytes, digest)) = self.open.take() else {
                    return Err(ContainerError::Damaged("the end belongs to no part"));
                };
                let sha256 = hex(digest.finish().as_ref());
                let part = Part {
                    name,
                    bytes,
                    sha256,
                };
                if part != said {
                    return Err(ContainerError::Damaged("the checksum of a part differs"));
                }
                self.parts.push(part);
                Ok(Record::End)
            }
            b'M' => {
                let manifest: Manifest = serde_json::from_slice(&bytes).map_err(unreadable)?;
                if manifest.parts != self.parts || self.open.is_some() {
                    return Err(ContainerError::Damaged("not all parts are there"));
                }
                Ok(Record::Over(Box::new(manifest)))
            }
            _ => Err(ContainerError::Damaged("a record cannot be read")),
        }
    }

    /// Reads to the end, and gives what is in it.
    pub fn verify(mut self) -> Result<Manifest, ContainerError> {
        loop {
            if let Record::Over(manifest) = self.record()? {
                return Ok(*manifest);
            }
        }
    }
}

fn line(file: &mut BufReader<File>) -> Result<Vec<u8>, ContainerError> {
    let mut text = Vec::new();
    let mut byte = [0];
    loop {
        let read = file.read_exact(&mut byte);
        if read.is_err() || text.len() == MAX_LINE_BYTES {
            return Err(ContainerError::Foreign);
        }
        if byte[0] == b'\n' {
            return Ok(text);
        }
        text.push(byte[0]);
    }
}

/// Whether it is a backup, and as it was written.
fn check(file: &mut File) -> Result<(), ContainerError> {
    let failed = || io_error("read the backup");
    let mut reader = BufReader::new(&mut *file);
    let mut magic = vec![0; MAGIC.len()];
    if reader.read_exact(&mut magic).is_err() || magic != MAGIC.as_bytes() {
        return Err(ContainerError::Foreign);
    }
    let mut format = Vec::new();
    let mut byte = [0];
    while reader.read_exact(&mut byte).is_ok() && byte[0] != b'\n' && format.len() < 16 {
        format.push(byte[0]);
    }
    if format != FORMAT.as_bytes() {
        let format = String::from_utf8_lossy(&format).into_owned();
        return Err(ContainerError::Newer(format));
    }
    let length = file.metadata().map_err(failed())?.len();
    let Some(mut left) = length.checked_sub(SHA256_OUTPUT_LEN as u64) else {
        return Err(ContainerError::Damaged("it is too short"));
    };
    file.seek(SeekFrom::Start(0)).map_err(failed())?;
    let mut digest = Context::new(&SHA256);
    let mut buffer = vec![0; FRAME_BYTES];
    while left > 0 {
        let wanted = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut buffer[..wanted]).map_err(failed())?;
        digest.update(&buffer[..wanted]);
        left -= wanted as u64;
    }
    let mut kept = [0; SHA256_OUTPUT_LEN];
    file.read_exact(&mut kept).map_err(failed())?;
    if digest.finish().as_ref() == kept {
        Ok(())
    } else {
        Err(ContainerError::Damaged("its checksum differs"))
    }
}
