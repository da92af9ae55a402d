//! Hosts and drivers that run the built filter.
