// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers made of arbitrary bytes, and what merging them gives.

use arbitrary::{Result, Unstructured};
use stos_erofs::{Error, ImageSummary, Indexed, LayerInput, Merger, TarIndexer};
use stos_testkit::erofs_image::Image;
use stos_testkit::merge_model::{Step, Tree, apply, list, write};

use crate::check_message;

/// Few names, so that layers meet; one that only an extended header can say, one that is not ASCII.
const NAMES: [&str; 8] = ["a", "b", "c", "a", "b", "d", "ä.x", LONG];
/// As long as a name can be, less a whiteout's prefix.
const LONG: &str = concat!(
    "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
    "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
);
/// Where links point.
const TARGETS: [&str; 12] =
    ["a", "b", "/a", "/b/c", "..", "../b/", "c/./a", "c/b/../a", "../../a", ".", "/", "./d//ä.x"];

/// Layers that the model has an opinion about.
pub(crate) struct Layers {
    /// The steps of each layer, what takes away before what is there.
    pub(crate) steps: Vec<Vec<Step>>,
    /// The same in their own order.
    in_order: Vec<Vec<Step>>,
    /// What they make; `None` where the last one is in error.
    pub(crate) tree: Option<Tree>,
    has_links: bool,
}

impl Layers {
    /// Makes up to four layers of up to sixteen steps. A step that is in error is left out, unless the first byte is odd.
    pub(crate) fn of(data: &[u8]) -> Self {
        let mut source = Unstructured::new(data);
        let keeps_errors = source.arbitrary::<u8>().unwrap_or(0) % 2 == 1;
        let (mut steps, mut in_order) = (Vec::new(), Vec::new());
        let (mut tree, mut has_links) = (Tree::new(), false);
        while steps.len() < 4 && !source.is_empty() {
            let base = tree.clone();
            let (mut layer, mut is_valid) = (Vec::new(), true);
            for _ in 0..source.int_in_range(0..=16).unwrap_or(0) {
                let Ok(step) = step(&mut source) else { break };
                // What takes away comes first, so all the others come again.
                let (mut next, from) = if step.is_deletion() { (base.clone(), 0) } else { (tree.clone(), layer.len()) };
                layer.push(step);
                if apply(&mut next, &layer[from..]).is_some() {
                    tree = next;
                } else if keeps_errors {
                    is_valid = false;
                    break;
                } else {
                    layer.pop();
                }
            }
            has_links |= layer.iter().any(|step| matches!(step, Step::Symlink(..)));
            in_order.push(layer.clone());
            layer.sort_by_key(|step| !step.is_deletion());
            steps.push(layer);
            if !is_valid {
                return Self { steps, in_order, tree: None, has_links };
            }
        }
        Self { steps, in_order, tree: Some(tree), has_links }
    }
}

fn path(source: &mut Unstructured<'_>) -> Result<String> {
    let names = (0..source.int_in_range(1..=3)?).map(|_| source.choose(&NAMES).copied()).collect::<Result<Vec<_>>>()?;
    Ok(names.join("/"))
}

fn step(source: &mut Unstructured<'_>) -> Result<Step> {
    let kind = source.int_in_range(0..=13)?;
    let path = path(source)?;
    Ok(match kind {
        0..=2 => Step::Directory(path, source.int_in_range(0..=0o7777)?),
        3..=5 => Step::Regular(path, content(source.arbitrary()?)),
        6..=7 => Step::HardLink(path, self::path(source)?),
        8 => Step::Whiteout(path),
        9 => Step::Opaque(path),
        _ => Step::Symlink(path, (*source.choose(&TARGETS)?).to_owned()),
    })
}

/// Of no bytes, of some, and of more than a block.
fn content(seed: u8) -> String {
    char::from(b'0' + seed % 10).to_string().repeat(usize::from(seed) * 7)
}

/// Merges tars, and gives the image with what its data lie in.
pub(crate) fn image(tars: &[Vec<u8>]) -> Result<(Image, ImageSummary), Error> {
    let mut merger = Merger::new();
    for (tag, tar) in (0..).zip(tars) {
        let mut indexer = TarIndexer::new(Vec::new());
        indexer.push(tar).unwrap();
        let Indexed { out: index, summary, .. } = indexer.finish().unwrap();
        let layer = LayerInput { tag: [tag; 32], tar_bytes: summary.tar_bytes, extra_bytes: summary.extra_bytes };
        merger.add_layer(layer, &*index)?;
    }
    let mut bytes = Vec::new();
    let summary = merger.write(&mut bytes)?;
    let devices = summary.devices.iter().map(|device| tars[device.layer].clone()).collect();
    Ok((Image { bytes, devices }, summary))
}

/// Merges layers with whiteouts, opaque directories, hard links, and parents that are symbolic links.
///
/// The image has what the model has, or both find the layers in error. Where no symbolic link can lead a deletion elsewhere,
/// the order within a layer does not count.
pub fn merge(data: &[u8]) {
    let layers = Layers::of(data);
    let tars = |layers: &[Vec<Step>]| layers.iter().map(|steps| write(steps)).collect::<Vec<_>>();
    let expected = match (&layers.tree, image(&tars(&layers.steps))) {
        (None, Ok((image, _))) => {
            panic!("the model refuses what the merger takes: {:?} {:#?}", layers.steps, image.list())
        }
        (None, Err(error)) => return check_message(&error),
        (Some(_), Err(error)) => panic!("{error}: {:?}", layers.steps),
        (Some(tree), Ok((image, summary))) => {
            assert_eq!(image.bytes.len() as u64, summary.bytes);
            let expected = list(tree);
            assert_eq!(image.list().split_off(1), expected, "{:?}", layers.steps);
            expected
        }
    };
    // An entry below a lower file that only a later whiteout removes is in error.
    if !layers.has_links
        && let Ok((image, _)) = image(&tars(&layers.in_order))
    {
        assert_eq!(image.list().split_off(1), expected, "{:?}", layers.in_order);
    }
}
