//! Changes of a manifest, named by JSON pointers: what is decided, and what a renderer carries out.
//!
//! Changes are applied one after the other. Those that shift the indices of a list come after those that name its items, so
//! that all pointers are also right about the manifest as it was.

use std::fmt;

use serde_json::{Map, Value, json};

/// Where a part of a document is (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pointer(Vec<String>);

impl Pointer {
    #[must_use]
    pub(super) fn member(&self, name: &str) -> Self {
        Self(self.0.iter().cloned().chain([name.to_owned()]).collect())
    }

    #[must_use]
    pub(super) fn item(&self, index: usize) -> Self {
        self.member(&index.to_string())
    }

    #[must_use]
    pub(super) fn join(&self, path: &[&str]) -> Self {
        path.iter().fold(self.clone(), |pointer, part| pointer.member(part))
    }

    pub(super) fn parts(&self) -> &[String] {
        &self.0
    }

    /// The parent and the last part.
    pub(super) fn split(&self) -> Option<(Self, &str)> {
        let (last, parent) = self.0.split_last()?;
        Some((Self(parent.to_vec()), last))
    }

    /// What is there, if anything is.
    pub(super) fn find<'value>(&self, document: &'value Value) -> Option<&'value Value> {
        document.pointer(&self.to_string())
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| write!(f, "/{}", part.replace('~', "~0").replace('/', "~1")))
    }
}

/// What is put into a manifest, in the order in which a person would write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tree {
    /// A string.
    Text(String),
    /// A whole number.
    Number(i64),
    /// True or false.
    Flag(bool),
    /// Items.
    List(Vec<Self>),
    /// Members.
    Map(Vec<(String, Self)>),
    /// What the manifest had there before all changes, in the very words if possible.
    Copy(Pointer),
    /// The same in other words: those in which a member was written that now makes place for it.
    Words(String, Pointer),
}

impl Tree {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn map<const N: usize>(members: [(&str, Self); N]) -> Self {
        Self::Map(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// What is found in a manifest.
    pub(super) fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Map(Vec::new()),
            Value::Bool(flag) => Self::Flag(*flag),
            Value::Number(number) => number.as_i64().map_or_else(|| Self::Text(number.to_string()), Self::Number),
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(items) => Self::List(items.iter().map(Self::of).collect()),
            Value::Object(map) => {
                let member = |(name, value): (&String, &Value)| (name.clone(), Self::of(value));
                // As people write them: the name comes first.
                let (first, others): (Vec<_>, Vec<_>) = map.iter().map(member).partition(|(name, _)| name == "name");
                Self::Map(first.into_iter().chain(others).collect())
            }
        }
    }

    /// The same as JSON.
    pub(super) fn value(&self, before: &Value) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(number) => json!(number),
            Self::Flag(flag) => json!(flag),
            Self::List(items) => items.iter().map(|item| item.value(before)).collect(),
            Self::Map(members) => {
                Value::Object(members.iter().map(|(name, tree)| (name.clone(), tree.value(before))).collect())
            }
            Self::Copy(from) | Self::Words(_, from) => from.find(before).cloned().unwrap_or_default(),
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// A string becomes another.
    Rewrite {
        /// The string.
        at: Pointer,
        /// What it is before.
        was: String,
        /// What it is then.
        is: String,
    },
    /// A member of a mapping makes place for one of another name.
    Exchange {
        /// The member.
        at: Pointer,
        /// The other's name.
        name: &'static str,
        /// The other's value.
        value: Tree,
    },
    /// Items come to the front of a list.
    Prepend {
        /// The list, or nothing as yet: `key:` alone.
        at: Pointer,
        /// In their order.
        items: Vec<Tree>,
    },
    /// Members come into a mapping that does not have them.
    Add {
        /// The mapping, or nothing as yet.
        at: Pointer,
        /// The member that a person would write behind them, unless they come first.
        before: Option<&'static str>,
        /// In their order.
        members: Vec<(String, Tree)>,
    },
    /// A member or item goes.
    Remove {
        /// It.
        at: Pointer,
    },
}

/// Carries out changes on a document, as the patches of RFC 6902 would.
pub(super) fn apply(document: &mut Value, edits: &[Edit]) {
    let before = document.clone();
    for edit in edits {
        match edit {
            Edit::Rewrite { at, is, .. } => {
                if let Some(text) = document.pointer_mut(&at.to_string()) {
                    *text = json!(is);
                }
            }
            Edit::Exchange { at, name, value } => {
                if let Some((map, old)) = parent(document, at) {
                    map.remove(&old);
                    map.insert((*name).to_owned(), value.value(&before));
                }
            }
            Edit::Prepend { at, items } => {
                if let Some(list) = document.pointer_mut(&at.to_string()) {
                    let had = list.as_array().cloned().unwrap_or_default();
                    *list = items.iter().map(|item| item.value(&before)).chain(had).collect();
                }
            }
            Edit::Add { at, members, .. } => {
                if let Some(map) = document.pointer_mut(&at.to_string()) {
                    let mut has = map.as_object().cloned().unwrap_or_default();
                    has.extend(members.iter().map(|(name, tree)| (name.clone(), tree.value(&before))));
                    *map = Value::Object(has);
                }
            }
            Edit::Remove { at } => {
                if let Some((map, name)) = parent(document, at) {
                    map.remove(&name);
                } else if let Some((list, index)) = at.split()
                    && let Some(Value::Array(items)) = document.pointer_mut(&list.to_string())
                    && let Some(index) = index.parse().ok().filter(|index| *index < items.len())
                {
                    items.remove(index);
                }
            }
        }
    }
}

/// The mapping that has a member, and its name.
fn parent<'value>(document: &'value mut Value, at: &Pointer) -> Option<(&'value mut Map<String, Value>, String)> {
    let (parent, name) = at.split()?;
    let map = document.pointer_mut(&parent.to_string())?.as_object_mut()?;
    Some((map, name.to_owned()))
}
