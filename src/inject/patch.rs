//! Changes of a document as a patch of RFC 6902, for whoever has the document and not its text.

use serde_json::{Value, json};

use super::edit::{Edit, Pointer};

/// The operations, in their order, that make of a document what the changes make of it.
pub(super) fn patch(document: &Value, edits: &[Edit]) -> Value {
    edits.iter().flat_map(|edit| operations(document, edit)).collect()
}

/// Pointers are right about the document as it was, so that it tells what there is to add to.
fn operations(document: &Value, edit: &Edit) -> Vec<Value> {
    match edit {
        Edit::Rewrite { at, is, .. } => vec![json!({"op": "replace", "path": path(at), "value": is})],
        Edit::Exchange { at, name, value } => {
            let Some((parent, _)) = at.split() else { return Vec::new() };
            vec![remove(at), add(&parent.member(name), &value.value(document))]
        }
        Edit::Prepend { at, items } => {
            let items = items.iter().map(|item| item.value(document));
            if at.find(document).is_some_and(Value::is_array) {
                // Each comes to the front, so the last one goes first.
                items.rev().map(|item| add(&at.item(0), &item)).collect()
            } else {
                vec![add(at, &items.collect())]
            }
        }
        Edit::Add { at, members, .. } => {
            let members = members.iter().map(|(name, tree)| (name, tree.value(document)));
            if at.find(document).is_some_and(Value::is_object) {
                members.map(|(name, value)| add(&at.member(name), &value)).collect()
            } else {
                let all = members.map(|(name, value)| (name.clone(), value)).collect();
                vec![add(at, &Value::Object(all))]
            }
        }
        Edit::Remove { at } => vec![remove(at)],
    }
}

/// Puts a value where there may be another; an item of a list moves the others on.
fn add(at: &Pointer, value: &Value) -> Value {
    json!({"op": "add", "path": path(at), "value": value})
}

fn remove(at: &Pointer) -> Value {
    json!({"op": "remove", "path": path(at)})
}

fn path(at: &Pointer) -> String {
    at.to_string()
}

#[cfg(test)]
mod tests {
    use super::super::edit::{Tree, apply};
    use super::*;

    fn at(parts: &[&str]) -> Pointer {
        Pointer::default().join(parts)
    }

    fn text(text: &str) -> Tree {
        Tree::Text(text.to_owned())
    }

    /// The patch, which an implementation that is not ours finds to do what the edits do.
    fn patched(document: &Value, edits: &[Edit]) -> Value {
        let patch = patch(document, edits);
        let (mut by_patch, mut by_edits) = (document.clone(), document.clone());
        let operations: json_patch::Patch = serde_json::from_value(patch.clone()).expect("it is a patch");
        json_patch::patch(&mut by_patch, &operations).expect("it can be applied");
        apply(&mut by_edits, edits);
        assert_eq!(by_patch, by_edits);
        patch
    }

    #[test]
    fn items_come_to_the_front_in_their_order() {
        let edit = Edit::Prepend { at: at(&["list"]), items: vec![text("a"), text("b")] };
        let patch = patched(&json!({"list": ["c"]}), std::slice::from_ref(&edit));
        assert_eq!(
            patch,
            json!([{"op": "add", "path": "/list/0", "value": "b"}, {"op": "add", "path": "/list/0", "value": "a"}])
        );
        patched(&json!({"list": []}), std::slice::from_ref(&edit));
        let patch = patched(&json!({"list": null}), &[edit]);
        assert_eq!(patch, json!([{"op": "add", "path": "/list", "value": ["a", "b"]}]));
    }

    #[test]
    fn members_are_added_and_names_are_escaped() {
        let members = vec![("example.dev/a~b".to_owned(), text("1")), ("c".to_owned(), text("2"))];
        let edit = Edit::Add { at: at(&["map"]), before: None, members };
        let patch = patched(&json!({"map": {"d": 3}}), std::slice::from_ref(&edit));
        assert_eq!(patch[0], json!({"op": "add", "path": "/map/example.dev~1a~0b", "value": "1"}));
        assert_eq!(patch[1], json!({"op": "add", "path": "/map/c", "value": "2"}));
        let patch = patched(&json!({"map": null}), &[edit]);
        assert_eq!(patch, json!([{"op": "add", "path": "/map", "value": {"c": "2", "example.dev/a~b": "1"}}]));
    }

    #[test]
    fn a_member_makes_place_for_another_with_what_was_elsewhere() {
        let document = json!({"env": [{"name": "A", "valueFrom": {"secret": 1}}], "to": {}});
        let from = at(&["env", "0", "valueFrom"]);
        let copy = Tree::Copy(from.clone());
        let edits = [
            Edit::Exchange { at: from, name: "value", value: text("x") },
            // What it copies is what was there before all changes.
            Edit::Add { at: at(&["to"]), before: None, members: vec![("from".to_owned(), copy)] },
        ];
        assert_eq!(
            patched(&document, &edits),
            json!([
                {"op": "remove", "path": "/env/0/valueFrom"},
                {"op": "add", "path": "/env/0/value", "value": "x"},
                {"op": "add", "path": "/to/from", "value": {"secret": 1}},
            ])
        );
    }

    #[test]
    fn strings_are_replaced_and_what_is_not_wanted_goes() {
        let edits = [
            Edit::Rewrite { at: at(&["list", "0"]), was: "a".to_owned(), is: "b".to_owned() },
            Edit::Remove { at: at(&["list", "1"]) },
            Edit::Remove { at: at(&["x"]) },
        ];
        assert_eq!(
            patched(&json!({"list": ["a", "c"], "x": 1}), &edits),
            json!([
                {"op": "replace", "path": "/list/0", "value": "b"},
                {"op": "remove", "path": "/list/1"},
                {"op": "remove", "path": "/x"},
            ])
        );
    }
}
