"""What executes: one file per serving engine, each behind `kvpred.engines.base.Engine`."""
