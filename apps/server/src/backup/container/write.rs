//! Writing the file of a backup.

use std::fs::File;
use std::io::{self, Read, Write};

use aws_lc_rs::aead::Aad;
use aws_lc_rs::digest::{Context, SHA256};
use flate2::Compression;
use flate2::write::GzEncoder;
use muster_clock::Randomness;
use serde::Serialize;

use super::{
    ContainerError, DATA_BYTES, FORMAT, FRAME_BYTES, Head, MAGIC, MEMORY_KIB, Manifest, PASSES,
    Part, PartHead, SALT_BYTES, Seal, Sealing, TAG_BYTES, hex, io_error,
};

/// Counts what goes through into a digest.
struct Digesting<W> {
    inner: W,
    digest: Context,
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Puts content into frames.
struct FrameWriter {
    file: Digesting<io::BufWriter<File>>,
    seal: Option<Seal>,
    number: u64,
    frame: Vec<u8>,
}

impl FrameWriter {
    fn put(&mut self, is_last: bool) -> io::Result<()> {
        let mut frame = std::mem::take(&mut self.frame);
        if let Some(seal) = &self.seal {
            let nonce = Seal::nonce(self.number, is_last);
            let aad = Aad::from(&seal.head);
            seal.key
                .seal_in_place_append_tag(nonce, aad, &mut frame)
                .map_err(|_| io::Error::other("a frame cannot be sealed"))?;
        }
        self.number += 1;
        self.file.write_all(&[u8::from(is_last)])?;
        self.file.write_all(&(frame.len() as u32).to_be_bytes())?;
        self.file.write_all(&frame)?;
        frame.clear();
        self.frame = frame;
        Ok(())
    }

    /// Writes the last frame and the digest, and waits until the disk has them.
    fn finish(mut self) -> io::Result<File> {
        self.put(true)?;
        let digest = self.file.digest.finish();
        let mut file = self.file.inner;
        file.write_all(digest.as_ref())?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(file)
    }
}

impl Write for FrameWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.frame.len() == FRAME_BYTES {
            self.put(false)?;
        }
        let taken = bytes.len().min(FRAME_BYTES - self.frame.len());
        self.frame.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a backup.
pub struct Writer {
    out: GzEncoder<FrameWriter>,
    parts: Vec<Part>,
    /// The part that is being written.
    open: Option<(String, u64, Context)>,
}

impl Writer {
    /// Begins. With a passphrase everything but the head is sealed.
    pub fn begin(
        file: File,
        mut head: Head,
        passphrase: Option<&str>,
        randomness: &dyn Randomness,
    ) -> Result<Self, ContainerError> {
        head.sealed = passphrase.map(|_| {
            let mut salt = [0; SALT_BYTES];
            randomness.fill(&mut salt);
            Sealing {
                derivation: "argon2id".to_owned(),
                memory_kib: MEMORY_KIB,
                passes: PASSES,
                salt: hex(&salt),
            }
        });
        let text = serde_json::to_string(&head)
            .map_err(|error| ContainerError::Io(error.into(), "write the head"))?;
        let seal = match (&head.sealed, passphrase) {
            (Some(sealing), Some(passphrase)) => {
                Some(Seal::new(sealing, passphrase, text.as_bytes())?)
            }
            _ => None,
        };
        let mut file = Digesting {
            inner: io::BufWriter::new(file),
            digest: Context::new(&SHA256),
        };
        write!(file, "{MAGIC}{FORMAT}\n{text}\n").map_err(io_error("write the head"))?;
        let frames = FrameWriter {
            file,
            seal,
            number: 0,
            frame: Vec::with_capacity(FRAME_BYTES + TAG_BYTES),
        };
        Ok(Self {
            out: GzEncoder::new(frames, Compression::fast()),
            parts: Vec::new(),
            open: None,
        })
    }

    fn record(&mut self, kind: u8, bytes: &[u8]) -> Result<(), ContainerError> {
        let mut head = [kind, 0, 0, 0, 0];
        head[1..].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
        let written = self
            .out
            .write_all(&head)
            .and_then(|()| self.out.write_all(bytes));
        written.map_err(io_error("write the backup"))
    }

    fn json(&mut self, kind: u8, value: &impl Serialize) -> Result<(), ContainerError> {
        let text = serde_json::to_vec(value)
            .map_err(|error| ContainerError::Io(error.into(), "write the backup"))?;
        self.record(kind, &text)
    }

    /// Begins a part.
    pub fn begin_part(&mut self, head: &PartHead) -> Result<(), ContainerError> {
        self.open = Some((head.name.clone(), 0, Context::new(&SHA256)));
        self.json(b'B', head)
    }

    /// More of the part.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), ContainerError> {
        for piece in bytes.chunks(DATA_BYTES) {
            if let Some((_, length, digest)) = &mut self.open {
                *length += piece.len() as u64;
                digest.update(piece);
            }
            self.record(b'D', piece)?;
        }
        Ok(())
    }

    /// Ends the part.
    pub fn end_part(&mut self) -> Result<(), ContainerError> {
        if let Some((name, bytes, digest)) = self.open.take() {
            let sha256 = hex(digest.finish().as_ref());
            let part = Part {
                name,
                bytes,
                sha256,
            };
            self.json(b'E', &part)?;
            self.parts.push(part);
        }
        Ok(())
    }

    /// A whole part.
    pub fn part(&mut self, name: &str, mut content: impl Read) -> Result<(), ContainerError> {
        self.begin_part(&PartHead {
            name: name.to_owned(),
            columns: Vec::new(),
        })?;
        let mut buffer = vec![0; DATA_BYTES];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => self.data(&buffer[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ContainerError::Io(error, "read what is to be kept")),
            }
        }
        self.end_part()
    }

    /// Writes the manifest, with the parts added, and waits until the disk has everything.
    pub fn finish(mut self, mut manifest: Manifest) -> Result<Manifest, ContainerError> {
        manifest.parts = std::mem::take(&mut self.parts);
        self.json(b'M', &manifest)?;
        let frames = self.out.finish().map_err(io_error("write the backup"))?;
        frames.finish().map_err(io_error("write the backup"))?;
        Ok(manifest)
    }
}
