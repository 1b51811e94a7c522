//! What must not harm: malformed, endless, half-open and abandoned connections.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Rig, TestEndpoint, http, tls};

#[tokio::test]
async fn bad_requests_get_the_right_status_and_reach_nobody() {
    let one = TestEndpoint::start(1).await;
    let rig = Rig::start(http(), &[&one]).await;
    let large = format!("GET / HTTP/1.1\r\nhost: web\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    for (request, status) in [
        ("\x16\x03\x01\x02\x00garbage\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost web\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 2\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n", 400),
        ("GET /\0 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("CONNECT other:22 HTTP/1.1\r\nhost: other:22\r\nconnection: close\r\n\r\n", 405),
        // What begins like HTTP/2 and is none.
        ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 400),
    ] {
        assert_eq!(rig.ask(request).await.0, status, "{request:.40}");
    }
    let tunnel = "GET /headers HTTP/1.1\r\nhost: web\r\nconnection: upgrade, http2-settings, close\r\nupgrade: h2c\r\n\
                  http2-settings: AAMAAABkAAQAAP__\r\n\r\n";
    // The end of the connection may overtake the answer: there is more to read.
    let (status, _) = rig.ask(&large).await;
    assert!([0, 431].contains(&status), "{status}");
    // Garbage behind the preface ends the connection.
    let mut stream = rig.connect().await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let _ = stream.write_all(&[0xff; 4096]).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(one.served(), 0);
    let (status, headers) = rig.ask(tunnel).await;
    assert_eq!(status, 200, "the endpoint is not asked for a tunnel");
    assert!(!headers.contains("upgrade") && !headers.contains("http2-settings"), "{headers}");
    rig.stop().await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_given_up() {
    let one = TestEndpoint::start(1).await;
    let rig = Rig::start(http(), &[&one]).await;
    let (began, mut waiting) = (Instant::now(), Vec::new());
    for begun in [&b"GET / HT"[..], b"GET / HTTP/1.1\r\nhost: web\r\nx: y", b"PRI * HTTP/2.0\r\n", b""] {
        let mut stream = rig.connect().await;
        stream.write_all(begun).await.unwrap();
        waiting.push(stream);
    }
    for mut stream in waiting {
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(rig.get("/who").await, (200, "1".to_owned()));
    rig.stop().await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_ended() {
    let one = TestEndpoint::start(1).await;
    let mut policy = http();
    policy.timeouts.idle = Duration::from_millis(200);
    policy.timeouts.request = Duration::from_millis(200);
    let rig = Rig::start(policy, &[&one]).await;
    let mut upload = rig.connect().await;
    upload.write_all(b"POST /echo HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
    let mut upgraded = rig.connect().await;
    let request = b"GET /upgrade HTTP/1.1\r\nhost: web\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    upgraded.write_all(request).await.unwrap();
    for mut stream in [upload, upgraded] {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn connections_that_are_reset_or_stay_half_open_harm_nobody() {
    let one = TestEndpoint::start(1).await;
    let rig = Rig::start(http(), &[&one]).await;
    let mut open = Vec::new();
    for round in 0..600 {
        let mut stream = rig.connect().await;
        let said: &[u8] = match round % 3 {
            0 => b"",
            1 => b"GET / HTTP/1.1\r\nhost: web\r\n",
            _ => b"GET /hang HTTP/1.1\r\nhost: web\r\n\r\n",
        };
        let _ = stream.write_all(said).await;
        if round % 2 == 0 {
            // A reset instead of an end.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        } else if round % 10 == 1 {
            open.push(stream);
        }
    }
    assert_eq!(rig.get("/who").await, (200, "1".to_owned()));
    drop(open);
    rig.stop().await;
}

#[tokio::test]
async fn tls_garbage_and_handshakes_that_never_end_are_given_up() {
    let one = TestEndpoint::start(1).await;
    let rig = tls::rig(&[("shop.example", &one)]).await;
    let began = Instant::now();
    for begun in
        [&b"GET / HTTP/1.1\r\nhost: web\r\n\r\n"[..], &[0xff; 600], b"\x16\x03\x01\x40", b"", &[0x16; 70_000]]
    {
        let mut stream = rig.connect().await;
        let _ = stream.write_all(begun).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.len() < 100, "an alert at most: {answer:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(one.served(), 0);
    let (_, answer) = tls::ask(&rig, "shop.example", "/who").await;
    assert_eq!(answer, (200, "1".to_owned()));
    rig.stop().await;
}
