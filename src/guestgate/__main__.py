"""`python -m guestgate`"""

from guestgate.cli import main

if __name__ == "__main__":
    main()
