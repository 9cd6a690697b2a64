//! Makes a script that shows a difference as short as it can, so that a person can read it.

use super::script::Script;

/// How many scripts are tried at most.
const MOST_TRIALS: usize = 300;

/// A shorter script for which `fails` holds as it does for this one.
pub fn shrink(script: Script, mut fails: impl FnMut(&Script) -> bool) -> Script {
    let mut least = script;
    let mut trials = 0;
    loop {
        let before = least.clone();
        let mut size = least.steps.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < least.steps.len() && trials < MOST_TRIALS {
                let shorter = without_steps(&least, at, size);
                trials += 1;
                if fails(&shorter) { least = shorter } else { at += size }
            }
            size /= 2;
        }
        for shorter in (0..least.steps.len()).rev() {
            let mut command = least.steps[shorter].commands.len();
            while command > 0 && least.steps[shorter].commands.len() > 1 && trials < MOST_TRIALS {
                command -= 1;
                let candidate = without_command(&least, shorter, command);
                trials += 1;
                if fails(&candidate) {
                    least = candidate;
                }
            }
        }
        if least == before || trials >= MOST_TRIALS {
            return least;
        }
    }
}

fn without_steps(script: &Script, at: usize, size: usize) -> Script {
    let mut steps = script.steps.clone();
    steps.drain(at..(at + size).min(steps.len()));
    Script { steps }
}

fn without_command(script: &Script, step: usize, command: usize) -> Script {
    let mut shorter = script.clone();
    shorter.steps[step].commands.remove(command);
    shorter
}

#[test]
fn what_does_not_matter_is_left_out() {
    let script = Script::read("1: A; B; C\n2: D\n1: E; F\n3 leaves\n2: G");
    let shrunk = shrink(script, |script| {
        let text = script.to_string();
        text.contains('B') && text.contains('F')
    });
    assert_eq!(shrunk.to_string(), "1: B\n1: F");
}
