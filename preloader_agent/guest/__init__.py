"""The guest side: attached disks become part of Docker's store. What is imported here is part of the boot time."""
