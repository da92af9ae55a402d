//! Huffman coded strings (RFC 7541 appendix B), against another implementation's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

mod hex;

use hex::hex;
use wsferry::Error;
use wsferry::http2::hpack::huffman;

/// Each byte alone, as another implementation (Python's hpack) encodes it.
const SINGLE: &str = "
ffc7,ffffb1,fffffe2f,fffffe3f,fffffe4f,fffffe5f,fffffe6f,fffffe7f,fffffe8f,ffffea,fffffff3,fffffe9f,
fffffeaf,fffffff7,fffffebf,fffffecf,fffffedf,fffffeef,fffffeff,ffffff0f,ffffff1f,ffffff2f,fffffffb,
ffffff3f,ffffff4f,ffffff5f,ffffff6f,ffffff7f,ffffff8f,ffffff9f,ffffffaf,ffffffbf,53,fe3f,fe7f,ffaf,ffcf,
57,f8,ff5f,febf,feff,f9,ff7f,fa,5b,5f,63,07,0f,17,67,6b,6f,73,77,7b,7f,b9,fb,fff9,83,ffbf,ff3f,ffd7,87,bb,
bd,bf,c1,c3,c5,c7,c9,cb,cd,cf,d1,d3,d5,d7,d9,db,dd,df,e1,e3,e5,fc,e7,fd,ffdf,fffe1f,ffe7,fff3,8b,fffb,1f,
8f,27,93,2f,97,9b,9f,37,e9,eb,a3,a7,ab,3f,af,ed,b3,47,4f,b7,ef,f1,f3,f5,f7,fffd,ff9f,fff7,ffef,ffffffcf,
fffe6f,ffff4b,fffe7f,fffe8f,ffff4f,ffff53,ffff57,ffffb3,ffff5b,ffffb5,ffffb7,ffffb9,ffffbb,ffffbd,ffffeb,
ffffbf,ffffec,ffffed,ffff5f,ffffc1,ffffee,ffffc3,ffffc5,ffffc7,ffffc9,fffee7,ffff63,ffffcb,ffff67,ffffcd,
ffffcf,ffffef,ffff6b,fffeef,fffe9f,ffff6f,ffff73,ffffd1,ffffd3,fffef7,ffffd5,ffff77,ffff7b,fffff0,fffeff,
ffff7f,ffffd7,ffffd9,ffff07,ffff0f,ffff83,ffff17,ffffdb,ffff87,ffffdd,ffffdf,fffeaf,ffff8b,ffff8f,ffff93,
ffffe1,ffff97,ffff9b,ffffe3,fffff83f,fffff87f,fffebf,fffe3f,ffff9f,ffffe5,ffffa3,fffff67f,fffff8bf,
fffff8ff,fffff93f,fffffbdf,fffffbff,fffff97f,fffff1,fffff6ff,fffe5f,ffff1f,fffff9bf,fffffc1f,fffffc3f,
fffff9ff,fffffc5f,fffff2,ffff27,ffff2f,fffffa3f,fffffa7f,ffffffdf,fffffc7f,fffffc9f,fffffcbf,fffecf,
fffff3,fffedf,ffff37,ffffa7,ffff3f,ffff47,ffffe7,ffffab,ffffaf,fffff77f,fffff7ff,fffff4,fffff5,fffffabf,
ffffe9,fffffaff,fffffcdf,fffffb3f,fffffb7f,fffffcff,fffffd1f,fffffd3f,fffffd5f,fffffd7f,ffffffef,fffffd9f,
fffffdbf,fffffddf,fffffdff,fffffe1f,fffffbbf";

/// Bytes 0 to 255 in a row, from the same.
const ALL: &str = "
ffc7fffd8fffffe2fffffe3fffffe4fffffe5fffffe6fffffe7fffffe8ffffeafffffff3fffffa7fffffabffffffdfffffebfffffe
cfffffedfffffeefffffefffffff0ffffff1ffffff2fffffffbfffffcffffffd3fffffd7fffffdbfffffdffffffe3fffffe7fffffe
bfffffed4fe3f9ffaffcabf1febfafefe7fdfd2cbb00089969b71d79fb9f7fff20ffbff3ff50ddbd7f061c58f265cd9f469d5af66d
ddbf871e5f9cff7ff7fffc3ff9ffe45fff4719242cb34e6e9d68a6a3d7dac426defe3cfaf7fffbfe7ffbffdffffffcfffe6ffff4bf
ff9ffffa3fffd3ffff53fffd5ffffb3fffeb7fffdaffffb7ffff73fffeeffffdeffffebffffbfffffd9ffffdbfffebffffe0ffffee
ffffc3ffff8bffff1ffffe4fffee7fffb1ffff97fffd9ffffcdffff9fffffbffffdafffeeffff4ffffb7fffee7fffe8ffffd3fffde
ffffd5fffeeffffbdffffe1fffdfffff7fffff5ffffecffff07fff87fffe0ffff17fffedffff87ffff77fffeffffeaffff8bfffe3f
fff93ffff87fffcbffff37ffff1fffff83ffffe1fffebfffe3ffff3fffff2ffffa3ffffd9fffff17ffffc7fffff27ffffdefffffbf
fffff2fffff8fffffb7fff97fff8fffffe6fffffc1fffff87ffffe7fffffc5ffffe5fffe4ffff2fffffd1fffff4ffffffefffffe3f
ffffc9fffff97fffb3ffffcffffb7fffcdffff4ffff9ffffd1ffffcffffeaffffafffffddffffeffffff4fffff5fffffabffffa7ff
ffd7fffff9bffffecfffffb7fffff3fffffe8fffffd3fffffabfffff5fffffff7ffffecfffffdbfffffbbfffff7ffffff0fffffbbf";

#[test]
fn huffman_knows_every_byte() {
    let single: Vec<Vec<u8>> = SINGLE.split(',').map(hex).collect();
    assert_eq!(single.len(), 256);
    for (byte, code) in (0_u8..=255).zip(&single) {
        let mut out = Vec::new();
        assert_eq!(huffman::decode(code, &mut out), Ok(()), "{byte}");
        assert_eq!(out, [byte]);
        // A whole byte of padding more is too much.
        let mut long = code.clone();
        long.push(0xff);
        assert_eq!(
            huffman::decode(&long, &mut out),
            Err(Error::Hpack),
            "{byte} padded"
        );
        // Zeroes are no padding: with its last bit cleared, it is nothing or another byte.
        let mut cleared = code.clone();
        let last = cleared.last_mut().unwrap();
        if *last & 1 == 1 {
            *last &= !1;
            out.clear();
            let decoded = huffman::decode(&cleared, &mut out);
            assert!(decoded == Err(Error::Hpack) || out != [byte], "{byte}: {out:?}");
        }
    }
    let mut out = Vec::new();
    assert_eq!(huffman::decode(&hex(ALL), &mut out), Ok(()));
    assert_eq!(out, (0_u8..=255).collect::<Vec<_>>());
}

#[test]
fn huffman_refuses_eos_and_bad_padding() {
    let mut out = Vec::new();
    for bad in [
        // EOS, alone and after a byte.
        "ffffffff",
        "fffffffc",
        "1fffffffff",
        // 'a' (00011) and padding of 0s, and one with a hole.
        "18",
        "1d",
        // Padding of eight bits.
        "ff",
        "1fff",
        // A code cut off.
        "fe",
        "ffc0",
        "fffffff0",
    ] {
        assert_eq!(huffman::decode(&hex(bad), &mut out), Err(Error::Hpack), "{bad}");
    }
    out.clear();
    assert_eq!(huffman::decode(&[], &mut out), Ok(()));
    assert!(out.is_empty());
}
