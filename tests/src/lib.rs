//! The lab of WICE.
