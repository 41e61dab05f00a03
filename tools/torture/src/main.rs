mod disk;
mod image;
mod pages;
mod trace;
#[cfg(test)]
mod tests;
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, Failure>;
fn main(){}
