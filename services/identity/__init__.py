"""Who a token stands for: JSON Web Tokens (RFC 7519) signed with keys this server only reads."""
