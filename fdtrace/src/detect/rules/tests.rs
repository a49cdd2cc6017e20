use super::*;

#[test]
fn names_are_those_that_were_promised() {
    let promised = "double-close stale-close close-after-eintr use-after-close stale-use close-while-blocked foreign-close two-owners \
        clobbered-fd saved-fd-overwritten bulk-close stdio-recycled epoll-shared-across-fork ghost-event epoll-stale-ctl \
        epoll-duplicate-entry epoll-lost-registration shared-stream shared-offset shared-flags posix-lock-dropped held-by-fork \
        fd-leak exec-leak cloexec-race fd-limit";
    let mut promised: Vec<&str> = promised.split_whitespace().collect();
    let mut present: Vec<&str> = all().map(|rule| rule.name).collect();
    promised.sort_unstable();
    present.sort_unstable();
    assert_eq!(present, promised);
}

#[test]
fn each_rule_says_everything() {
    for rule in all() {
        let name = rule.name;
        for text in [rule.title, rule.definition, rule.proof, rule.advice, rule.example.source, rule.example.report] {
            assert!(!text.trim().is_empty(), "{name} leaves something out");
        }
        assert!(!rule.look_alikes.is_empty(), "{name} has no look-alike");
        assert!(
            !rule.title.ends_with('.') && !rule.advice.ends_with('.'),
            "{name}: titles and advice have no full stop"
        );
        assert!(
            rule.title.len() <= 120 && rule.advice.len() <= 140,
            "{name}: title {} advice {}",
            rule.title.len(),
            rule.advice.len()
        );
        for text in [rule.definition, rule.proof] {
            assert!(text.ends_with('.') && !text.contains("  "), "{name}: {text}");
        }
        assert!(rule.example.source.lines().all(|line| line.len() <= 90), "{name}: example too wide");
    }
}
