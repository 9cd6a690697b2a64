//! Finding commands by name, and what must hold for every line of the table.

use super::*;

fn top_level() -> impl Iterator<Item = &'static Command> {
    all().iter().filter(|command| command.subcommand().is_none())
}

fn every_other_letter_upper(name: &str) -> String {
    name.char_indices().map(|(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect()
}

#[test]
fn every_name_is_found_in_any_case() {
    for command in top_level() {
        for name in [command.name.to_owned(), command.name.to_uppercase(), every_other_letter_upper(command.name)] {
            assert_eq!(find(name.as_bytes()), Some(command), "{name}");
        }
    }
}

#[test]
fn every_subcommand_is_found_in_any_case_and_only_in_its_container() {
    for command in all().iter().filter(|command| command.subcommand().is_some()) {
        let (parent, name) = command.name.split_once('|').unwrap();
        let parent = find(parent.as_bytes()).unwrap();
        assert!(parent.is_container());
        for name in [name.to_owned(), name.to_uppercase(), every_other_letter_upper(name)] {
            assert_eq!(find_sub(parent, name.as_bytes()), Some(command), "{}", command.name);
        }
        assert_eq!(find(command.name.as_bytes()), None, "{}", command.name);
        assert_eq!(find_sub(find(b"get").unwrap(), name.as_bytes()), None);
    }
}

#[test]
fn near_misses_are_unknown() {
    let known: Vec<&str> = top_level().map(|command| command.name).collect();
    for name in &known {
        let longer = [format!("{name}x"), format!("x{name}"), format!("{name} "), format!("{name}\0"), name.repeat(9)];
        let shorter = (0..name.len()).map(|length| name[..length].to_owned());
        let changed = (0..name.len()).flat_map(|at| {
            // The second letter of each pair differs from the first in the bit that lower and upper case differ in.
            ['{', '[', '@', '`', '\0', ' ', 'q'].map(|c| format!("{}{c}{}", &name[..at], &name[at + 1..]))
        });
        for miss in shorter.chain(changed).chain(longer).filter(|miss| !known.contains(&miss.as_str())) {
            assert_eq!(find(miss.as_bytes()), None, "{miss:?}");
        }
        assert_eq!(find_sub(find(name.as_bytes()).unwrap(), b""), None);
    }
    let case_bit_flipped: Vec<u8> = b"ft._list".iter().map(|byte| byte ^ 0x20).collect();
    for miss in [b"".as_slice(), b"\xff", b"\xff\xfe\xfd", &[b'a'; 10_000], &case_bit_flipped, "ĞET".as_bytes()] {
        assert_eq!(find(miss), None);
        assert_eq!(find_sub(find(b"client").unwrap(), miss), None);
    }
}

#[test]
fn names_are_unique_lower_case_and_in_order() {
    for (index, command) in all().iter().enumerate() {
        assert_eq!(command.index(), index);
        assert!(
            command.name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()),
            "{}",
            command.name
        );
        assert_eq!(all().iter().filter(|other| other.name == command.name).count(), 1, "{}", command.name);
        if let Some((parent, _)) = command.name.split_once('|') {
            let before = all()[..index].iter().rev().find(|other| other.subcommand().is_none()).unwrap();
            assert_eq!(parent, before.name, "subcommands follow their container");
        }
    }
}

#[test]
fn every_line_is_consistent() {
    for command in all() {
        let name = command.name;
        let kind = command.kind;
        assert_ne!(command.arity, 0, "{name}");
        assert!(command.shared || !matches!(kind, Kind::Read) || command.is_container(), "a read alone? {name}");
        assert!(!command.repeatable || !matches!(kind, Kind::Write | Kind::Blocking | Kind::Transaction), "{name}");
        assert_eq!(command.blocks == Blocks::Always, kind == Kind::Blocking, "{name}");
        assert!(!(command.shared && matches!(kind, Kind::Blocking | Kind::Transaction)), "{name}");
        match command.origin {
            Origin::Module { module, since } => {
                assert!(!module.is_empty() && !since.is_empty(), "{name}");
                assert!(command.arity < 0, "the arity of a module's command is a minimum: {name}");
            }
            Origin::Core { since } | Origin::Valkey { since } => assert_eq!(since.split('.').count(), 3, "{name}"),
        }
    }
}

#[test]
fn arity_counts_the_name() {
    let [get, set] = [b"get", b"set"].map(|name| find(name).unwrap());
    assert!(get.accepts(2) && !get.accepts(1) && !get.accepts(3));
    assert!(set.accepts(3) && set.accepts(9) && !set.accepts(2));
}

#[test]
fn a_server_may_be_without_what_is_newer_or_of_the_other_family() {
    let missing =
        |name: &str, is_valkey, version| find(name.as_bytes()).unwrap().origin.may_be_missing(is_valkey, version);
    assert!(!missing("get", false, (6, 2)) && !missing("get", true, (9, 1)));
    assert!(missing("expiretime", false, (6, 2)) && !missing("expiretime", false, (7, 0)));
    assert!(!missing("expiretime", true, (7, 2)) && !missing("waitaof", true, (9, 1)), "they had it in common");
    assert!(
        missing("hexpire", true, (9, 1)) && !missing("hexpire", false, (7, 4)),
        "Redis made it when they had parted"
    );
    assert!(missing("commandlog", true, (8, 0)) && !missing("commandlog", true, (8, 1)));
    assert!(missing("commandlog", false, (8, 1)));
    assert!(!missing("json.get", false, (6, 2)), "nobody knows");
}

#[test]
fn eight_bytes_are_lowered_as_one_by_one() {
    for byte in 0..=u8::MAX {
        let others = [b'A', b'Z', b'@', b'[', byte.wrapping_add(1), byte ^ 0x80, 0];
        for at in 0..8 {
            let mut bytes = [0; 8];
            for (slot, other) in bytes.iter_mut().zip(others.iter().cycle().skip(at)) {
                *slot = *other;
            }
            bytes[at] = byte;
            assert_eq!(lower(u64::from_le_bytes(bytes)).to_le_bytes(), bytes.map(|byte| byte.to_ascii_lowercase()));
        }
    }
}

/// Not many names share a slot: the longest way to any of them is short.
#[test]
fn the_names_are_spread() {
    let ways = top_level().map(|command| {
        let place = Ends::of(command.name.as_bytes()).place();
        (0..).find(|way| SLOTS[(place + way) % SLOT_COUNT].index == command.index).unwrap()
    });
    assert!(ways.max().unwrap() <= 3);
}
