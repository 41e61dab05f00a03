//! Files and objects below the formats.
