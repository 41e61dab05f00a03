//! The backup of real stores, into blobs in memory that fail.

mod clouded;
mod history;
mod shipping;
mod site;
mod window;
