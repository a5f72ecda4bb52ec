//! Asking the agent.

use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::platform::host::socket;

/// Why the agent did not answer a request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at its socket.
    #[error("no agent answers at {path}: {error}", path = path.display())]
    Absent {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It refuses.
    #[error("the agent refuses: {detail}; {mend}", detail = .0.detail, mend = .0.mend)]
    Refused(Problem),
    /// It went away in the middle.
    #[error("the agent at {path} went away before it had answered ({why})", path = path.display())]
    Broke {
        /// Its socket.
        path: PathBuf,
        /// How that shows.
        why: String,
    },
}

/// A connection to the agent.
pub struct Client {
    path: PathBuf,
    http: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Absent`].
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let absent = |error| ClientError::Absent { path: path.to_owned(), error };
        let stream = socket::connect(path).await.map_err(absent)?;
        let (http, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| absent(io::Error::other(error)))?;
        // Its end shows in the request that it carries.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { path: path.to_owned(), http })
    }

    /// Reads an object.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        self.object(response).await
    }

    /// Sends an object, and reads the answer's.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broke(&error))?;
        let response = self.send(Method::POST, path, body.into()).await?;
        self.object(response).await
    }

    /// Reads lines, for as long as they come.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn lines(mut self, path: &str) -> Result<Lines, ClientError> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        Ok(Lines { body: response.into_body(), pending: Vec::new(), client: self })
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = hyper::Request::builder().method(method).uri(path).header("host", "gatewatch");
        let request = request.body(Full::new(body)).map_err(|error| self.broke(&error))?;
        let response = self.http.send_request(request).await.map_err(|error| self.broke(&error))?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let problem = self.object(response).await?;
        Err(ClientError::Refused(problem))
    }

    async fn object<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, ClientError> {
        let body = response.into_body().collect().await.map_err(|error| self.broke(&error))?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| self.broke(&error))
    }

    fn broke(&self, why: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broke { path: self.path.clone(), why: why.to_string() }
    }
}

/// Lines from the agent.
pub struct Lines {
    body: Incoming,
    pending: Vec<u8>,
    client: Client,
}

impl Lines {
    /// The next line.
    ///
    /// # Errors
    /// [`ClientError::Broke`] when there will be none.
    pub async fn next(&mut self) -> Result<String, ClientError> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.pending.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(self.client.broke(&error)),
                None => return Err(self.client.broke(&"it has ended")),
            }
        }
    }
}
