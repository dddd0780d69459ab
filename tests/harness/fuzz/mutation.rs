//! Mutations of inputs as a fuzzer makes them, but the same in every run.

use fastrand::Rng;

/// The most bytes that a mutation adds to an input.
const MAX_GROWTH: usize = 4_096;
/// Numbers at which something overflows or wraps.
const EDGES: [u8; 7] = [0, 1, 0x7f, 0x80, 0xfe, 0xff, b'0'];

/// One of the inputs with a few changes: bytes replaced, left out, doubled, or taken from another input.
pub fn mutated(corpus: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut input = corpus[rng.usize(..corpus.len())].clone();
    let longest = input.len() + MAX_GROWTH;
    for _ in 0..rng.usize(1..5) {
        let (from, to) = range(input.len(), rng);
        match rng.u8(..7) {
            0 => flip(&mut input, rng),
            1 => replace(&mut input, rng),
            2 => drop(input.drain(from..to)),
            3 => {
                let doubled = input[from..to].to_vec();
                input.splice(to..to, doubled);
            }
            4 => {
                let other = &corpus[rng.usize(..corpus.len())];
                let (other_from, other_to) = range(other.len(), rng);
                input.splice(from..to, other[other_from..other_to].to_vec());
            }
            5 => {
                let made: Vec<u8> = (0..rng.usize(1..5)).map(|_| rng.u8(..)).collect();
                input.splice(from..from, made);
            }
            _ => input.truncate(to),
        }
    }
    input.truncate(longest);
    input
}

fn flip(input: &mut [u8], rng: &mut Rng) {
    if !input.is_empty() {
        input[rng.usize(..input.len())] ^= 1 << rng.u8(..8);
    }
}

fn replace(input: &mut [u8], rng: &mut Rng) {
    if !input.is_empty() {
        input[rng.usize(..input.len())] = EDGES[rng.usize(..EDGES.len())];
    }
}

/// A random range within this many bytes. Short ranges are more frequent.
fn range(length: usize, rng: &mut Rng) -> (usize, usize) {
    let from = rng.usize(..=length);
    let most = if rng.bool() { 8.min(length - from) } else { length - from };
    (from, from + rng.usize(..=most))
}
