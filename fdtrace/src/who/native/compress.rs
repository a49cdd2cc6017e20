//! Compressed parts of ELF files, with a bound on what comes out.
//!
//! Pure Rust decoders: the tool is linked statically and runs as root on files it does not trust.

use std::io::{self, Read, Write};

/// Most memory for the result of one decompression.
pub const OUTPUT_MAX: usize = 512 << 20;

/// zlib, as in `.debug_*` sections with `ELFCOMPRESS_ZLIB`.
pub fn zlib(data: &[u8], size: u64) -> io::Result<Vec<u8>> {
    let limit = limit(size)?;
    miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(data, limit)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// Zstandard, as in `.debug_*` sections with `ELFCOMPRESS_ZSTD`.
pub fn zstd(data: &[u8], size: u64) -> io::Result<Vec<u8>> {
    let limit = limit(size)?;
    let decoder = ruzstd::decoding::StreamingDecoder::new(data)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    let mut out = Vec::new();
    decoder.take(limit as u64).read_to_end(&mut out)?;
    Ok(out)
}

/// xz, as in `.gnu_debugdata`.
pub fn xz(data: &[u8]) -> io::Result<Vec<u8>> {
    // Debug data of this kind is a symbol table, which compresses about fivefold.
    let mut out = Bounded { bytes: Vec::new(), limit: data.len().saturating_mul(200).min(OUTPUT_MAX) };
    lzma_rs::xz_decompress(&mut io::BufReader::new(data), &mut out)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{error:?}")))?;
    Ok(out.bytes)
}

fn limit(size: u64) -> io::Result<usize> {
    usize::try_from(size)
        .ok()
        .filter(|&size| size <= OUTPUT_MAX)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("compressed section claims {size} bytes")))
}

struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for Bounded {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + data.len() > self.limit {
            return Err(io::Error::other("decompressed data exceeds its bound"));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_refused() {
        assert!(zlib(b"x", u64::MAX).is_err());
        assert!(zlib(b"not zlib", 100).is_err());
        assert!(zstd(b"not zstd", 100).is_err());
        assert!(xz(b"not xz").is_err());
        let mut packed = Vec::new();
        lzma_rs::xz_compress(&mut io::BufReader::new(&vec![7_u8; 100_000][..]), &mut packed).unwrap();
        assert_eq!(xz(&packed).unwrap().len(), 100_000);
    }
}
