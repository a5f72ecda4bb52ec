//! The host agent.

mod costs;
mod events;
mod export;
mod false_agents;
mod guard;
mod history;
mod hostile_clients;
mod journal;
mod life;
mod losses;
mod metrics;
mod past;
mod safe_start;
mod serving;
mod udp;
mod upgrade;
