"""Traffic on simulated replicas, by Vidur's discrete events, and the largest rate that limits allow."""
