"""The service beside the beamline that notices finished scans and starts the run of each exactly once."""
