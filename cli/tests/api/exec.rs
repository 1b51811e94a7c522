//! `skein exec` against a fake master: what is shown, and the exit codes.

use super::{fake::serve, skein, world};

#[tokio::test]
async fn output_is_told_apart_and_the_exit_code_is_the_commands() {
    let world = world();
    let a = serve("a", &world).await;
    let ended = skein(&[&a], "exec -e A=1 web -- ls -l").await;
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (3, "out\n", "err\n"));
    let call = world.lock().unwrap().calls.pop().unwrap();
    assert_eq!(call.key, r#"["ls", "-l"] {"A": "1"}"#);
}

#[tokio::test]
async fn what_goes_wrong_is_said_and_never_repeated() {
    let world = world();
    let a = serve("a", &world).await;
    let ended = skein(&[&a], "exec gone cat").await;
    assert_eq!((ended.code, ended.out.as_str()), (1, "half"));
    assert!(ended.err.starts_with("skein: the connection to the cluster was lost"), "{}", ended.err);
    let ended = skein(&[&a], "exec away cat").await;
    assert_eq!((ended.code, ended.err.as_str()), (1, "skein: away does not run (NOT_RUNNING)\n"));
    assert_eq!(world.lock().unwrap().calls.len(), 2);
    let ended = skein(&[&a], "exec web").await;
    assert_eq!(ended.code, 64, "{}", ended.err);
}
