// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One layer by itself, in overlayfs's form: what lower layers lose is written down, not looked up.

use std::collections::HashMap;

use super::bounds::{Bounds, STEPS_TO_MAKE};
use super::resolve::{Resolved, resolve};
use super::step::{DirectoryState, Fault, Step};
use super::tree::{Content, DentryId, InodeId, LayerId, MAX_LAYERS, NO_ENTRY, NO_LAYER, ROOT, Tree, mark};
use super::{MergeProblem, device_number, merge_error};
use crate::error::printable;
use crate::index::{Entry, EntryKind, Metadata};
use crate::path::{MAX_PATH, split};
use crate::{Error, Result};

/// What the tree is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One layer, without those below it. What cannot be known without them is left out.
    Alone,
    /// Several layers, without those below them. What cannot be known without them is an error.
    Merged,
    /// A layer on an existing directory, which is all that there is below it.
    InPlace,
}

/// A layer in overlay form, built entry by entry in the tar's order.
///
/// [`apply`](Self::apply) says what to do to a directory so that it always equals the tree: a directory in overlay form
/// ([`new`](Self::new)), or an existing one to which the layer is applied ([`in_place`](Self::in_place)). The rules are
/// [`Merger`](crate::Merger)'s. In overlay form
///
/// - a whiteout is put where the layer has nothing of that name; what the layer itself has put there stays, and if it is
///   a directory it becomes opaque, as does one that takes the place of a whiteout or of another file of the layer;
/// - parents are implied for whiteouts and opaque markers too; those parents go again where a whiteout removes them;
/// - a hard link to a file that the layer does not have makes nothing: it removes what stands at its name. It is
///   remembered, so that links to it make nothing either;
/// - the regular file of an entry below such a link, or below another file, is [`Step::Unplaced`]: the layers below decide.
///   Other entries there make nothing. So no layer is refused for what it means: [`Merger`](crate::Merger) does that.
///
/// Entries, memory and time are bounded as [`Merger`](crate::Merger)'s; existing files count as entries. Nothing recurses.
#[derive(Debug)]
pub struct LayerTree {
    pub(super) tree: Tree,
    form: Form,
    layer: LayerId,
    /// Of the entries so far, existing files included.
    pub(super) bounds: Bounds,
    failed: bool,
}

impl Default for LayerTree {
    fn default() -> Self {
        Self::new()
    }
}

impl LayerTree {
    /// Starts a layer in overlay form: an empty directory.
    pub fn new() -> Self {
        Self { tree: Tree::new(), form: Form::Alone, layer: 0, bounds: Bounds::new(), failed: false }
    }

    /// Starts a layer that is applied to an existing directory; [`add_existing`](Self::add_existing) says what it holds.
    ///
    /// Whiteouts and opaque markers then remove, nothing is opaque, hard links may go to existing files, and what breaks
    /// the rules is an error as [`Merger`](crate::Merger)'s.
    pub fn in_place() -> Self {
        Self { form: Form::InPlace, ..Self::new() }
    }

    /// Adds an existing file by its physical path, parents first, the directory itself as the empty path. One more name of a file is a hard link; size and place
    /// of data do not matter.
    ///
    /// # Errors
    /// [`Error::Merge`] of layer 0 where the paths do not fit together or there are too many, and
    /// [`Error::UsedAfterError`] for a tree in overlay form or one to which entries have been applied.
    pub fn add_existing(&mut self, entry: &Entry) -> Result<()> {
        if self.form != Form::InPlace || self.layer != 0 {
            return Err(Error::UsedAfterError { object: "LayerTree" });
        }
        self.one(u64::from(NO_ENTRY), entry, &mut |_| Ok(()))
    }

    /// Applies the layer's next entry, whose number is `number`, the first being 0, and tells the steps in order.
    ///
    /// # Errors
    /// The caller's own, unchanged; [`Error::Merge`] of layer 0, or in place 1, where the entry breaks a rule or the tree
    /// grows too large. After an error the tree is unusable.
    pub fn apply<E: From<Error>>(
        &mut self,
        number: u64,
        entry: &Entry,
        mut step: impl FnMut(Step<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.form == Form::InPlace {
            self.layer = 1;
        }
        self.one(number, entry, &mut step)
    }

    fn one<E: From<Error>>(
        &mut self,
        number: u64,
        entry: &Entry,
        step: &mut dyn FnMut(Step<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if std::mem::replace(&mut self.failed, true) {
            return Err(Error::UsedAfterError { object: "LayerTree" }.into());
        }
        let layer = self.layer;
        let problem = |problem| merge_error(usize::from(layer), &entry.path, problem);
        self.bounds.count().map_err(problem)?;
        let limit = u64::from(NO_ENTRY);
        let too_large = MergeProblem::TooMany { what: "entries of one layer", limit };
        let number = u32::try_from(number).map_err(|_| problem(too_large))?;
        let result = Apply { tree: &mut self.tree, form: self.form, layer, number, step }.entry(entry);
        match result.and_then(|()| Ok(self.bounds.check(&self.tree)?)) {
            Ok(()) => {
                self.failed = false;
                Ok(())
            }
            Err(Fault::Caller(error)) => Err(error),
            Err(Fault::Problem(found)) => Err(problem(found).into()),
        }
    }

    /// How many entries there were.
    pub(super) fn entries(&self) -> u64 {
        self.bounds.entries()
    }

    pub(super) fn into_tree(self) -> Tree {
        self.tree
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Starts several layers in overlay form.
    pub(super) fn merged() -> Self {
        Self { form: Form::Merged, ..Self::new() }
    }

    /// Ends a layer; what follows is the next one's.
    pub(super) fn next_layer(&mut self) -> Result<(), MergeProblem> {
        if u64::from(self.layer) + 1 >= MAX_LAYERS {
            return Err(MergeProblem::TooMany { what: "layers", limit: MAX_LAYERS });
        }
        self.layer += 1;
        Ok(())
    }

    /// Gives the directories, the deepest first, as they must be in the end: a directory's time and attributes are set
    /// when all is in it. In place only those are given in which, or of which, something has changed.
    pub fn directories(&self) -> impl Iterator<Item = DirectoryState> + '_ {
        // What is implied the layer has made, or made anew of an existing one.
        let is_implied = |dentry| dentry != ROOT && self.tree.inode(dentry).layer == NO_LAYER;
        let has_changed = |dentry| self.tree.has(dentry, mark::CHANGED) || is_implied(dentry);
        let wanted =
            |&dentry: &DentryId| self.tree.is_directory(dentry) && (self.form != Form::InPlace || has_changed(dentry));
        let mut all: Vec<_> = self.tree.walk(ROOT).filter(wanted).collect();
        all.reverse();
        all.into_iter().map(|dentry| DirectoryState {
            path: self.tree.full_path(dentry),
            metadata: self.tree.metadata(self.tree.inode(dentry)),
            opaque: self.tree.has(dentry, mark::OPAQUE),
        })
    }
}

/// Applies one entry.
struct Apply<'a, E> {
    tree: &'a mut Tree,
    form: Form,
    layer: LayerId,
    number: u32,
    step: &'a mut dyn FnMut(Step<'_>) -> Result<(), E>,
}

type Done<E> = Result<(), Fault<E>>;

impl<E> Apply<'_, E> {
    fn tell(&mut self, step: Step<'_>) -> Done<E> {
        (self.step)(step).map_err(Fault::Caller)
    }

    fn entry(&mut self, entry: &Entry) -> Done<E> {
        let path = &entry.path;
        let (content, metadata) = match &entry.kind {
            EntryKind::Whiteout => return self.whiteout(path),
            EntryKind::Opaque => return self.opaque(path),
            EntryKind::HardLink { target } => return self.hard_link(path, target),
            EntryKind::Directory(metadata) => return self.directory(path, metadata),
            EntryKind::Regular { metadata, size, place, block } => {
                (Content::Regular { block: *block, size: *size, layer: self.layer, place: *place }, metadata)
            }
            EntryKind::Symlink { metadata, target } => {
                (Content::Symlink { at: self.tree.add_string(target)?, len: target.len() as u16 }, metadata)
            }
            EntryKind::CharacterDevice { metadata, major, minor } => {
                (Content::CharacterDevice(device_number(*major, *minor)), metadata)
            }
            EntryKind::BlockDevice { metadata, major, minor } => {
                (Content::BlockDevice(device_number(*major, *minor)), metadata)
            }
            EntryKind::Fifo(metadata) => (Content::Fifo, metadata),
        };
        let Some((parent, name)) = self.parent_of(path)? else {
            return match content {
                Content::Regular { .. } => self.tell(Step::Unplaced { number: u64::from(self.number) }),
                _ => Ok(()),
            };
        };
        let inode = self.tree.new_inode(content, metadata, self.layer, self.number)?;
        let dentry = self.put(parent, name, inode)?;
        self.tell(Step::Create { path: &self.tree.full_path(dentry) })
    }

    /// The directory that an entry goes into, and its name there; `None` where only the layers below can tell.
    fn parent_of<'p>(&mut self, path: &'p [u8]) -> Result<Option<(DentryId, &'p [u8])>, Fault<E>> {
        let (parent, name) = split(path);
        let resolved = match resolve(self.tree, parent) {
            Err(_) if self.form == Form::Alone => return Ok(None),
            resolved => resolved?,
        };
        Ok(Some((self.ensure(resolved, self.layer)?, name)))
    }

    /// Makes the missing directories; the layer is [`NO_LAYER`] where it is for a whiteout.
    fn ensure(&mut self, resolved: Resolved, layer: LayerId) -> Result<DentryId, Fault<E>> {
        let (mut at, missing) = match resolved {
            Resolved::Directory(dentry) => return Ok(dentry),
            Resolved::Missing(at, missing) => (at, missing),
        };
        // There may be thousands, so the path is not made anew for each.
        let mut path = self.tree.full_path(at);
        self.tree.count_steps(STEPS_TO_MAKE * missing.len() as u64);
        for name in missing {
            let whiteout = self.tree.find(at, &name);
            let inode = self.tree.new_implied_directory()?;
            at = self.put_for(at, &name, inode, layer)?;
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            self.tell(Step::Imply { path: &path })?;
            if whiteout.is_some() {
                self.make_fresh(at, &path)?;
            }
        }
        Ok(at)
    }

    fn put(&mut self, parent: DentryId, name: &[u8], inode: InodeId) -> Result<DentryId, Fault<E>> {
        self.put_for(parent, name, inode, self.layer)
    }

    /// Puts an inode at a name, whatever was there; what was is removed, the new one not yet made.
    fn put_for(&mut self, parent: DentryId, name: &[u8], inode: InodeId, layer: LayerId) -> Result<DentryId, Fault<E>> {
        self.changed(parent);
        if let Some(existing) = self.tree.find(parent, name) {
            self.tell_removal(existing)?;
            self.tree.replace(existing, inode, layer);
            self.changed(existing);
            return Ok(existing);
        }
        let dentry = self.tree.insert(parent, name, inode, layer)?;
        self.changed(dentry);
        Ok(dentry)
    }

    /// A directory stands where something else did: what the layers below have there, if anything, is another one.
    fn make_fresh(&mut self, directory: DentryId, path: &[u8]) -> Done<E> {
        if self.form == Form::InPlace {
            return Ok(());
        }
        self.tree.mark(directory, mark::OPAQUE | mark::FRESH);
        self.tell(Step::Opaque { path })
    }

    /// Notes that the layer has changed an existing directory, or what is in it.
    fn changed(&mut self, directory: DentryId) {
        if self.layer > 0 {
            self.tree.mark(directory, mark::CHANGED);
        }
    }

    fn tell_removal(&mut self, top: DentryId) -> Done<E> {
        if self.tree.has(top, mark::FOREIGN) {
            return Ok(());
        }
        for (inode, dentry) in self.orphans(top) {
            let number = u64::from(self.tree.number(inode));
            self.tell(Step::Orphan { number, path: &self.tree.full_path(dentry) })?;
        }
        self.tell(Step::Remove { path: &self.tree.full_path(top) })
    }

    /// The layer's regular files of which all names lie at or below `top`, in the order of their entries.
    fn orphans(&self, top: DentryId) -> Vec<(InodeId, DentryId)> {
        let mut found: HashMap<InodeId, (u32, DentryId)> = HashMap::new();
        for dentry in self.tree.walk(top) {
            let inode = self.tree.inode(dentry);
            if matches!(inode.content, Content::Regular { .. }) && inode.layer == self.layer {
                found.entry(self.tree.inode_id(dentry)).or_insert((0, dentry)).0 += 1;
            }
        }
        let all_names =
            |(inode, (names, dentry))| (self.tree.inode_at(inode).names == names).then_some((inode, dentry));
        let mut orphans: Vec<_> = found.into_iter().filter_map(all_names).collect();
        orphans.sort_unstable_by_key(|&(inode, _)| self.tree.number(inode));
        orphans
    }

    fn directory(&mut self, path: &[u8], metadata: &Metadata) -> Done<E> {
        if path.is_empty() {
            return self.update(ROOT, metadata);
        }
        let Some((parent, name)) = self.parent_of(path)? else { return Ok(()) };
        let existing = self.tree.find(parent, name);
        if let Some(existing) = existing
            && self.tree.is_directory(existing)
        {
            return self.update(existing, metadata);
        }
        let inode = self.tree.new_inode(Content::Directory, metadata, self.layer, self.number)?;
        let dentry = self.put(parent, name, inode)?;
        let path = self.tree.full_path(dentry);
        self.tell(Step::Create { path: &path })?;
        if existing.is_some() { self.make_fresh(dentry, &path) } else { Ok(()) }
    }

    fn update(&mut self, directory: DentryId, metadata: &Metadata) -> Done<E> {
        self.tree.touch(directory, self.layer);
        self.changed(directory);
        self.tree.set_metadata(self.tree.inode_id(directory), metadata, self.layer)?;
        self.tell(Step::Update { path: &self.tree.full_path(directory) })
    }

    fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Done<E> {
        let found = match self.link_target(target) {
            Err(_) if self.form == Form::Alone => None,
            Err(MergeProblem::LinkTargetMissing { .. }) if self.form == Form::Merged => None,
            found => Some(found?),
        };
        let Some((parent, name)) = self.parent_of(path)? else { return Ok(()) };
        let existing = self.tree.find(parent, name);
        let found = match (found, existing) {
            (Some(found), Some(existing)) if self.tree.inode_id(found) == self.tree.inode_id(existing) => {
                self.tree.touch(existing, self.layer);
                return Ok(());
            }
            // The link replaces the directory that its target lies in.
            (Some(found), Some(existing)) if self.tree.is_within(found, existing) => match self.form {
                Form::Alone => None,
                Form::InPlace | Form::Merged => return Err(missing(target).into()),
            },
            (found, _) => found,
        };
        match found {
            Some(found) => self.link(parent, name, found),
            None if self.form == Form::Merged => {
                let target = self.foreign_target(target)?;
                self.foreign_link(parent, name, &target)
            }
            None => self.foreign_link(parent, name, target),
        }
    }

    /// The name that a hard link goes to.
    fn link_target(&self, target: &[u8]) -> Result<DentryId, MergeProblem> {
        let (parent, name) = split(target);
        let found = match resolve(self.tree, parent)? {
            Resolved::Directory(directory) => self.tree.find(directory, name),
            Resolved::Missing(..) => None,
        };
        let found = found.filter(|&found| !self.is_for_whiteouts(found)).ok_or_else(|| missing(target))?;
        if self.tree.is_directory(found) {
            return Err(MergeProblem::LinkTargetDirectory { target: printable(target) });
        }
        Ok(found)
    }

    /// Tells whether a name is here for the sake of whiteouts alone: the layers below may have something else there.
    fn is_for_whiteouts(&self, dentry: DentryId) -> bool {
        self.tree.has(dentry, mark::WHITEOUT) || self.tree.is_touched(dentry, NO_LAYER)
    }

    /// The physical path of a hard link's target that only the layers below can have.
    fn foreign_target(&self, target: &[u8]) -> Result<Vec<u8>, MergeProblem> {
        let (parent, name) = split(target);
        let (at, mut names) = match resolve(self.tree, parent)? {
            Resolved::Directory(at) => (at, Vec::new()),
            Resolved::Missing(at, names) => (at, names),
        };
        names.push(name.to_vec());
        // Nor can they: it is whited out, or would lie below something that is.
        let first = self.tree.find(at, &names[0]);
        if first.is_some_and(|first| self.tree.has(first, mark::WHITEOUT)) || self.is_hidden(at) {
            return Err(missing(target));
        }
        if at != ROOT {
            names.insert(0, self.tree.full_path(at));
        }
        let path = names.join(&b'/');
        match path.len() > MAX_PATH {
            true => Err(MergeProblem::TooMany { what: "bytes of a path", limit: MAX_PATH as u64 }),
            false => Ok(path),
        }
    }

    fn link(&mut self, parent: DentryId, name: &[u8], found: DentryId) -> Done<E> {
        let target = self.tree.full_path(found);
        let foreign = self.tree.has(found, mark::FOREIGN);
        let dentry = self.put(parent, name, self.tree.inode_id(found))?;
        if foreign {
            self.tree.mark(dentry, mark::FOREIGN);
            return Ok(());
        }
        self.tell(Step::Link { path: &self.tree.full_path(dentry), target: &target })
    }

    fn foreign_link(&mut self, parent: DentryId, name: &[u8], target: &[u8]) -> Done<E> {
        let content = Content::Symlink { at: self.tree.add_string(target)?, len: target.len() as u16 };
        let inode = self.tree.new_inode(content, &Metadata::default(), self.layer, self.number)?;
        let dentry = self.put(parent, name, inode)?;
        self.tree.mark(dentry, mark::FOREIGN);
        Ok(())
    }

    fn whiteout(&mut self, path: &[u8]) -> Done<E> {
        let (parent, name) = split(path);
        let Some(parent) = self.directory_to_clear(parent)? else { return Ok(()) };
        let existing = self.tree.find(parent, name);
        match existing {
            Some(existing) if self.tree.has(existing, mark::WHITEOUT) => return Ok(()),
            Some(existing) if self.tree.is_touched(existing, self.layer) => return self.white_out_own(existing),
            Some(existing) => self.remove(vec![existing])?,
            None => {}
        }
        if self.form == Form::InPlace || self.is_hidden(parent) {
            return Ok(());
        }
        let inode = self.tree.new_inode(Content::CharacterDevice(0), &Metadata::default(), NO_LAYER, self.number)?;
        let dentry = self.tree.insert(parent, name, inode, NO_LAYER)?;
        self.tree.mark(dentry, mark::WHITEOUT);
        self.tell(Step::Whiteout { path: &self.tree.full_path(dentry) })
    }

    fn white_out_own(&mut self, existing: DentryId) -> Done<E> {
        if !self.tree.is_directory(existing) {
            return Ok(());
        }
        self.tree.forget_lower_metadata(existing, self.layer);
        self.changed(existing);
        self.make_fresh(existing, &self.tree.full_path(existing))?;
        self.clear_lower(existing)
    }

    fn opaque(&mut self, path: &[u8]) -> Done<E> {
        let Some(directory) = self.directory_to_clear(path)? else { return Ok(()) };
        if self.form != Form::InPlace && !self.is_hidden(directory) {
            self.tree.mark(directory, mark::OPAQUE);
            self.tell(Step::Opaque { path: &self.tree.full_path(directory) })?;
        }
        self.clear_lower(directory)
    }

    fn clear_lower(&mut self, directory: DentryId) -> Done<E> {
        let gone = self.tree.lower_names(directory, self.layer);
        self.remove(gone)
    }

    fn remove(&mut self, gone: Vec<DentryId>) -> Done<E> {
        for &dentry in &gone {
            self.tell_removal(dentry)?;
            self.changed(self.tree.parent(dentry));
        }
        self.tree.remove_all(gone);
        Ok(())
    }

    /// The directory in which a whiteout or opaque marker removes something. In overlay form it is made where it is
    /// missing, unless it is known that the layers below show nothing there.
    fn directory_to_clear(&mut self, path: &[u8]) -> Result<Option<DentryId>, Fault<E>> {
        match resolve(self.tree, path) {
            Err(MergeProblem::ParentNotDirectory { .. }) => Ok(None),
            Err(_) if self.form == Form::Alone => Ok(None),
            Err(problem) => Err(problem.into()),
            Ok(Resolved::Directory(directory)) => Ok(Some(directory)),
            Ok(Resolved::Missing(..)) if self.form == Form::InPlace => Ok(None),
            // A whiteout stands there.
            Ok(Resolved::Missing(at, names)) if self.tree.find(at, &names[0]).is_some() => Ok(None),
            Ok(Resolved::Missing(at, _)) if self.is_hidden(at) => Ok(None),
            Ok(missing) => self.ensure(missing, NO_LAYER).map(Some),
        }
    }

    /// Tells whether nothing of the layers below shows in that directory.
    fn is_hidden(&self, mut directory: DentryId) -> bool {
        while directory != ROOT && !self.tree.has(directory, mark::OPAQUE) {
            directory = self.tree.parent(directory);
        }
        self.tree.has(directory, mark::OPAQUE)
    }
}

fn missing(target: &[u8]) -> MergeProblem {
    MergeProblem::LinkTargetMissing { target: printable(target) }
}
