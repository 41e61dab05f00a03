//! The backup of real stores, into blobs in memory that fail.

mod clouded;
mod generations;
mod history;
mod restoring;
mod shipping;
mod site;
mod window;
