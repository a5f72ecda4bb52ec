//! Asking the agent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::clean::Cleaned;
use crate::model::{Port, Record, Span, WatchEvent};
use crate::platform::Host;
use crate::platform::contract::AgentSystem;
use crate::steps::owner::Owners;
use crate::wait::{Until, Waited};
use crate::wire::agent::{CleanRequest, OverrideAnswer, PortsAnswer, StatusAnswer, WatchedPortJson};
use crate::wire::answers::{CleanAnswer, OwnersAnswer, WaitAnswer};
use crate::wire::event::WatchLine;
use crate::wire::history::HistoryLine;
use crate::wire::problem::Problem;

/// Why the agent did not answer a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No agent answers at its socket.
    #[error("no agent answers at {path}: {error}", path = path.display())]
    Absent {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The agent takes no connection, or says nothing.
    #[error("the agent at {path} says nothing", path = path.display())]
    Silent {
        /// Its socket.
        path: PathBuf,
    },
    /// The agent says that it lives, and does not answer.
    #[error("the agent at {path} lives, but does not answer in time", path = path.display())]
    Late {
        /// Its socket.
        path: PathBuf,
    },
    /// The agent refuses the request.
    #[error("the agent refuses: {detail}; {mend}", detail = .0.detail, mend = .0.mend)]
    Refused(Problem),
    /// It tells this user nothing, or does not know what was asked about.
    #[error("the agent refuses: {detail}; {mend}", detail = .0.detail, mend = .0.mend)]
    Untold(Problem),
    /// The agent went away before it had answered.
    #[error("the agent at {path} went away before it had answered ({why})", path = path.display())]
    Broke {
        /// Its socket.
        path: PathBuf,
        /// What was observed.
        why: String,
    },
}

impl ClientError {
    /// Whether the agent ends, has ended, or can't answer at this moment: another answer may come soon.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Refused(problem) => problem.status == StatusCode::SERVICE_UNAVAILABLE.as_u16(),
            Self::Broke { .. } => true,
            Self::Absent { .. } | Self::Silent { .. } | Self::Late { .. } | Self::Untold(_) => false,
        }
    }
}

/// For so long an agent may say nothing at all.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);
/// After this part of it, an agent that has not answered is asked whether it lives, and then every now and again: an answer
/// can take long, because what was asked for does.
const IN_DOUBT: Duration = Duration::from_millis(500);
const NOW_AND_AGAIN: Duration = Duration::from_secs(2);
/// An answer that needs no time of its own is there within this, on a busy host as well. An agent that lives and does not
/// give it is as good as one that says nothing.
const ANSWERING: Duration = Duration::from_secs(10);
/// For so long no event may come before the agent is asked whether it lives.
const STILL: Duration = Duration::from_secs(5);

/// A connection to the agent.
pub(crate) struct Client {
    path: PathBuf,
    http: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Absent`] or [`ClientError::Silent`].
    pub(crate) async fn connect(path: &Path) -> Result<Self, ClientError> {
        let absent = |error| ClientError::Absent { path: path.to_owned(), error };
        let silent = |_| ClientError::Silent { path: path.to_owned() };
        let stream = timeout(SILENCE, Host::connect(path)).await.map_err(silent)?.map_err(absent)?;
        Self::over(stream, path).await
    }

    /// Speaks over a connection to the agent at this path.
    ///
    /// # Errors
    /// [`ClientError::Absent`].
    pub(super) async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &Path,
    ) -> Result<Self, ClientError> {
        let absent = |error| ClientError::Absent { path: path.to_owned(), error: io::Error::other(error) };
        let (http, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(absent)?;
        // If the connection breaks, the request on it fails, and that is reported.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { path: path.to_owned(), http })
    }

    /// The ports that the agent watches.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn ports(&mut self) -> Result<Vec<Port>, ClientError> {
        let answer: PortsAnswer = self.get("/v1/ports").await?;
        Ok(answer.ports.iter().map(WatchedPortJson::port).collect())
    }

    /// The owners of a port in a network namespace.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn owners(&mut self, port: Port, netns: u32) -> Result<Owners, ClientError> {
        let answer: OwnersAnswer = self.get(&format!("{}?netns={netns}", path_of(port))).await?;
        answer.try_into().map_err(|error| self.broke(&error))
    }

    /// Who holds the ports of a network namespace, all of them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn sockets(&mut self, netns: u32) -> Result<Vec<Owners>, ClientError> {
        let path = format!("/v1/sockets?netns={netns}");
        let response = self.send(Method::GET, &path, Bytes::new(), ANSWERING).await?;
        let body = self.bytes(response).await?;
        let lines = body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let answers = lines.map(|line| {
            let answer: OwnersAnswer = serde_json::from_slice(line).map_err(|error| self.broke(&error))?;
            answer.try_into().map_err(|error| self.broke(&error))
        });
        answers.collect()
    }

    /// Asks the agent to clean a port.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn clean(&mut self, port: Port, request: &CleanRequest) -> Result<Cleaned, ClientError> {
        let within = request.longest().saturating_add(ANSWERING);
        let answer: CleanAnswer = self.post(&format!("{}/clean", path_of(port)), request, within).await?;
        answer.try_into().map_err(|error| self.broke(&error))
    }

    /// Asks the agent to wait.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn wait(
        &mut self,
        port: Port,
        until: Until,
        timeout: Duration,
    ) -> Result<Waited, ClientError> {
        let within = timeout.saturating_add(ANSWERING);
        let (until, timeout) = (until.name(), timeout.as_millis());
        let path = format!("{}/wait?until={until}&timeout_ms={timeout}", path_of(port));
        let response = self.send(Method::GET, &path, Bytes::new(), within).await?;
        let answer: WaitAnswer = self.object(response).await?;
        answer.try_into().map_err(|error| self.broke(&error))
    }

    /// The agent's status.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn status(&mut self) -> Result<StatusAnswer, ClientError> {
        self.get("/v1/status").await
    }

    /// Has the agent let this process bind guarded ports, with those that it starts, until it ends.
    ///
    /// # Errors
    /// [`ClientError`]; `Refused` if nothing is guarded as well.
    pub(crate) async fn override_guards(&mut self) -> Result<(), ClientError> {
        let answer: OverrideAnswer = self.post("/v1/override", &serde_json::json!({}), ANSWERING).await?;
        tracing::debug!(pid = answer.pid, "may bind guarded ports");
        Ok(())
    }

    /// That it has said nothing for longer than it may.
    pub(crate) fn silent(&self) -> ClientError {
        ClientError::Silent { path: self.path.clone() }
    }

    /// Follows what happens to ports in a network namespace, for as long as the agent sends events; after the cursor, if
    /// there is one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn events(
        mut self,
        ports: &[Port],
        netns: u32,
        after: Option<&str>,
    ) -> Result<Events, ClientError> {
        let ports: String = ports.iter().map(|port| format!("port={port}&")).collect();
        let after = after.map_or_else(String::new, |cursor| format!("&after={cursor}"));
        let path = format!("/v1/events?{ports}netns={netns}{after}");
        let response = self.send(Method::GET, &path, Bytes::new(), ANSWERING).await?;
        Ok(Events::new(self, response))
    }

    /// The history of a span.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn history(mut self, span: &Span) -> Result<Records, ClientError> {
        let moment = |time| jiff::Timestamp::try_from(time).map(|time| format!("{time:.6}"));
        let moments = moment(span.since).and_then(|since| Ok((since, moment(span.until)?)));
        let (since, until) = moments.map_err(|error| self.broke(&error))?;
        let ports: String = span.ports.iter().map(|port| format!("port={port}&")).collect();
        let netns = span.netns.map_or_else(String::new, |netns| format!("netns={netns}&"));
        let path = format!("/v1/history?{ports}{netns}since={since}&until={until}");
        let response = self.send(Method::GET, &path, Bytes::new(), ANSWERING).await?;
        Ok(Records(Events { ends: true, ..Events::new(self, response) }))
    }

    async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        let response = self.send(Method::GET, path, Bytes::new(), ANSWERING).await?;
        self.object(response).await
    }

    async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broke(&error))?;
        let response = self.send(Method::POST, path, body.into(), within).await?;
        self.object(response).await
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        let asks = method == Method::GET;
        let request = hyper::Request::builder().method(method).uri(path).header("host", "gatewatch");
        let request = request.body(Full::new(body)).map_err(|error| self.broke(&error))?;
        let sent = self.http.send_request(request);
        let response = heard(&self.path, within, sent).await?.map_err(|error| self.broke(&error))?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let is_untold = match response.status() {
            StatusCode::NOT_FOUND => true,
            StatusCode::FORBIDDEN => asks,
            _ => false,
        };
        let problem = self.object(response).await?;
        Err(if is_untold { ClientError::Untold(problem) } else { ClientError::Refused(problem) })
    }

    async fn object<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, ClientError> {
        let body = self.bytes(response).await?;
        serde_json::from_slice(&body).map_err(|error| self.broke(&error))
    }

    async fn bytes(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        // No answer is anywhere near as long.
        let body = Limited::new(response.into_body(), 64 << 20).collect();
        Ok(heard(&self.path, ANSWERING, body).await?.map_err(|error| self.broke(&error))?.to_bytes())
    }

    fn broke(&self, why: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broke { path: self.path.clone(), why: why.to_string() }
    }
}

/// What the agent answers within this time, as long as it lives.
async fn heard<T>(path: &Path, within: Duration, answer: impl Future<Output = T>) -> Result<T, ClientError> {
    let answer = timeout(within, while_it_lives(path, IN_DOUBT, answer)).await;
    answer.unwrap_or_else(|_| Err(ClientError::Late { path: path.to_owned() }))
}

/// What the agent says, however long that takes, as long as it lives. After this pause it is asked for the first time.
async fn while_it_lives<T>(
    path: &Path,
    mut pause: Duration,
    answer: impl Future<Output = T>,
) -> Result<T, ClientError> {
    tokio::pin!(answer);
    loop {
        if let Ok(answer) = timeout(pause, &mut answer).await {
            return Ok(answer);
        }
        let lives = timeout(SILENCE.saturating_sub(IN_DOUBT), sign_of_life(path));
        tokio::select! {
            biased;
            answer = &mut answer => return Ok(answer),
            lives = lives => {
                if lives.is_err() {
                    return Err(ClientError::Silent { path: path.to_owned() });
                }
            }
        }
        pause = NOW_AND_AGAIN;
    }
}

/// Ready once an agent has done anything at all with another connection: answered, or turned it away. One that has died
/// breaks off the connection with the request on it as well.
async fn sign_of_life(path: &Path) {
    let Ok(mut stream) = Host::connect(path).await else { return };
    let asked =
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: gatewatch\r\nconnection: close\r\n\r\n").await;
    if asked.is_ok() {
        let _ = stream.read(&mut [0]).await;
    }
}

/// No line of the event stream is anywhere near as long, in bytes.
const LONGEST_LINE: usize = 16 << 20;

/// Events from the agent.
pub(crate) struct Events {
    body: Incoming,
    pending: Vec<u8>,
    client: Client,
    /// Whether the agent has all that it is to send, and does not wait for more to happen.
    ends: bool,
    /// When something came last.
    heard: Instant,
}

impl Events {
    fn new(client: Client, response: Response<Incoming>) -> Self {
        let body = response.into_body();
        Self { body, pending: Vec::new(), client, ends: false, heard: Instant::now() }
    }

    /// The next event, and the cursor after it.
    ///
    /// # Errors
    /// [`ClientError::Broke`] when no more events will come.
    pub(crate) async fn next(&mut self) -> Result<(WatchEvent, Option<String>), ClientError> {
        let line = self.next_line().await?.ok_or_else(|| self.client.broke(&"it has ended"))?;
        let mut line: WatchLine = serde_json::from_slice(&line).map_err(|error| self.client.broke(&error))?;
        let cursor = line.cursor.take();
        Ok((line.try_into().map_err(|error| self.client.broke(&error))?, cursor))
    }

    /// The next line; `None` at the end.
    async fn next_line(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                return Ok(Some(self.pending.drain(..=end).collect()));
            }
            if self.pending.len() > LONGEST_LINE {
                return Err(self.client.broke(&"a line of its events has no end"));
            }
            let (path, frame) = (&self.client.path, self.body.frame());
            let frame = if self.ends {
                heard(path, ANSWERING, frame).await?
            } else {
                while_it_lives(path, STILL.saturating_sub(self.heard.elapsed()), frame).await?
            };
            self.heard = Instant::now();
            match frame {
                Some(Ok(frame)) => self.pending.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(self.client.broke(&error)),
                None => return Ok(None),
            }
        }
    }
}

/// Where the interface has a port.
fn path_of(port: Port) -> String {
    format!("/v1/ports/{}", port.to_string().replace('/', "%2F"))
}

/// Records of the agent's history.
pub(crate) struct Records(Events);

impl Records {
    /// The next record; `None` once there are no more.
    ///
    /// # Errors
    /// [`ClientError::Broke`] if the agent breaks off.
    pub(crate) async fn next(&mut self) -> Result<Option<Record>, ClientError> {
        let Some(line) = self.0.next_line().await? else { return Ok(None) };
        let line: HistoryLine = serde_json::from_slice(&line).map_err(|error| self.0.client.broke(&error))?;
        Ok(Some(line.try_into().map_err(|error| self.0.client.broke(&error))?))
    }
}
