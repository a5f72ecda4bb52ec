//! Real servers that take over the sockets of a restart that keeps listening.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use gatewatch_tests::{Backend, Gatewatch, until, unused_port};

use super::field::{application, file};
use super::keep::{assert_kept, held_back, until_counted};
use crate::restart::{end, restart};

/// Starts a server, restarts it by this command while nobody accepts, and asks it five times meanwhile.
fn takes_over(backend: Backend, port: u16, start: &str, again: &str) {
    let command = |line: &str| ["sh", "-c", &format!("exec {line} > /dev/null 2>&1")].map(str::to_owned);
    let first = restart(backend, port, &["--any"], &command(start));
    assert_eq!(first.status, 0, "{first:?}");
    let folder = tempfile::tempdir().unwrap();
    let again = held_back(folder.path(), &[format!("{again} > /dev/null 2>&1")]);
    let words: Vec<&str> = again.iter().map(String::as_str).collect();
    let flags = ["--any", "--keep-listening", "--"];
    let running = Gatewatch::on(backend, &["restart"], port).with(&flags).with(&words).spawn();
    until("the old server has ended", || folder.path().join("ready").exists());
    let late: Vec<TcpStream> = (0..5)
        .map(|_| {
            let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            connection.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            connection
        })
        .collect();
    until_counted(running.pid());
    fs::File::create(folder.path().join("go")).unwrap();
    let json = assert_kept(&running.finish());
    assert_eq!(json["served_late"], 5, "{json}");
    for mut connection in late {
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1."), "{answer:?}");
    }
    end(backend, port);
}

scenario!(gunicorn_takes_the_sockets_over, needs(Root, Servers), |backend| {
    let (port, folder) = (unused_port(), application());
    let gunicorn = format!("{} --chdir {} app:wsgi", file("python/bin/gunicorn"), folder.path().display());
    takes_over(backend, port, &format!("{gunicorn} -b 127.0.0.1:{port}"), &gunicorn);
});

scenario!(uvicorn_takes_the_socket_by_its_number, needs(Root, Servers), |backend| {
    let (port, folder) = (unused_port(), application());
    let uvicorn = format!("{} --app-dir {} app:asgi", file("python/bin/uvicorn"), folder.path().display());
    takes_over(backend, port, &format!("{uvicorn} --port {port}"), &format!("{uvicorn} --fd 3"));
});

scenario!(nginx_takes_the_sockets_by_a_variable_of_its_own, needs(Root, Servers), |backend| {
    let (port, folder) = (unused_port(), tempfile::tempdir().unwrap());
    let place = folder.path().display();
    let paths: Vec<String> = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {place}/{name};"))
        .into();
    let server = format!("server {{ listen 127.0.0.1:{port}; return 200 x; }}");
    let http = format!("http {{ access_log off; {} {server} }}", paths.join(" "));
    let text = format!("error_log /dev/null; daemon off; user root; pid {place}/pid; events {{}} {http}");
    let config = folder.path().join("nginx.conf");
    fs::write(&config, text).unwrap();
    let nginx = format!("{} -c {}", file("debian/usr/sbin/nginx"), config.display());
    takes_over(backend, port, &nginx, &format!("env 'NGINX=3;' {nginx}"));
});

scenario!(node_takes_the_socket_by_its_number, needs(Node), |backend| {
    let port = unused_port();
    let node = |place: &str| {
        format!("node -e 'require(\"http\").createServer((_, answer) => answer.end(\"x\")).listen({place})'")
    };
    let address = format!("{port}, \"127.0.0.1\"");
    takes_over(backend, port, &node(&address), &node("{fd: 3}"));
});
