//! Tells the program its version.

fn main() {
    wice_version::emit();
}
